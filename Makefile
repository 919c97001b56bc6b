# `make fig1` and `make test` set up everything on a fresh machine with Python 3.11 or later.
# A CPU-only machine with internet access downloads 2.5 GB less with
#   make fig1 PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
BIN := $(VENV)/bin
RUFF_TARGETS := mupkit experiments tests tools

.PHONY: fig1 setup test check lock format docs

fig1: setup
	$(BIN)/snakemake fig1

setup: $(VENV)/.installed

# The lock goes in without dependencies; the second step adds what the CUDA build of torch needs
# and finds nothing to do for the CPU build.
$(VENV)/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	@echo "installing about 2 GB of packages into $(VENV), one to three minutes"
	$(BIN)/pip install --quiet --no-deps $(PIP_ARGS) -r requirements.lock
	$(BIN)/pip install --quiet $(PIP_ARGS) -c requirements.lock "$$(grep '^torch==' requirements.lock)"
	touch $@

# What continuous integration runs: the tests, which train and draw at the scale smoke. One of them
# is `make check`, so that types are checked on one core while the other tests.
test: setup
	$(BIN)/python -m pytest -n auto --dist worksteal

# Style, types, the workflow's own lint.
check: setup
	$(BIN)/ruff check $(RUFF_TARGETS)
	$(BIN)/ruff format --check $(RUFF_TARGETS)
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

format: setup
	$(BIN)/ruff check --fix $(RUFF_TARGETS)
	$(BIN)/ruff format $(RUFF_TARGETS)
	$(BIN)/snakefmt Snakefile workflow

# The API reference, for a browser; it needs no network.
docs: setup
	$(BIN)/pdoc -d google -o docs/api mupkit mupkit.coord_check mupkit.huggingface mupkit.transfer

lock: setup
	$(BIN)/python tools/lock.py > requirements.lock.new
	mv requirements.lock.new requirements.lock
