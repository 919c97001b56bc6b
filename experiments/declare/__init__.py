"""What is to be run and shown. Neither torch nor pandas: a workflow reads it at every call."""
