# make VENV=DIR puts the environment elsewhere.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PATH := $(abspath $(BIN)):$(PATH)
export SPEECHBRAIN_EXT_PYTHON := $(abspath $(BIN))/python

.PHONY: help setup demo test smoke lint bench acceptance clean

help:            ## this list
	@grep -hE '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## make the environment (again: a no-op)
	@echo "$(VENV) is ready"

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "speechbrain-ext needs Python >= 3.10; name one with: make PYTHON=python3.11 setup")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): some minutes, and some GB for torch"
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[corpora,dev]'
	@$(BIN)/python -m pip install --quiet --editable '.[eval]' \
	  || echo "PESQ could not be built: it needs gcc and the Python headers;" \
	          "the run goes on and shows it as not measured"
	@touch $@

demo: setup      ## train and score the codec on the embedded corpus
	egs/telugu/run.sh

test: setup      ## all tests (at most 8 minutes on 2 cores)
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadgroup

smoke: setup     ## the two-minute subset
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadgroup -m smoke

lint: setup      ## ruff, shellcheck, imports
	ruff check .
	ruff format --check .
	shellcheck -x $$(git ls-files '*.sh') .ci/run

bench: setup     ## speed ratios against the real peers; writes docs/bench.*
	python -m speechbrain_ext bench

acceptance: setup ## the long proof; writes docs/acceptance.json
	python -m tests.acceptance

clean:           ## remove the environment and caches; data and experiments stay
	rm -rf $(VENV) .pytest_cache .ruff_cache *.egg-info
