"""Which runs are trained, when and where, and what is kept of them."""
