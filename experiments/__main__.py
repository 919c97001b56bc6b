"""`python -m experiments`."""

import importlib.util
import os
import sys

if importlib.util.find_spec("fcntl") is None:
    sys.stderr.write("error: Linux or macOS is needed: this system has no locks of files (fcntl)\n")
    sys.exit(2)

# One thread per process: before torch is imported anywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from experiments.cli.main import main

main()
