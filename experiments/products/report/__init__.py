"""One page of everything that was reproduced."""
