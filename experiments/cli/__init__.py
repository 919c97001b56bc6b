"""What people type: `python -m experiments`."""
