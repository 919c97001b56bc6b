"""`python -m experiments`."""

import os

# One thread per process: before torch is imported anywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from experiments.cli.main import main

main()
