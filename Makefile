# PYTHON=python3.12 make quickstart chooses the interpreter of a new environment; make clean removes
# the old one.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: quickstart test determinism crash-test fuzz bench clean

quickstart: $(VENV)/.installed
	$(RUN) code/main.py train --preset quickstart
	$(RUN) code/main.py test --preset quickstart
	$(RUN) code/main.py predict --preset quickstart
	@echo "Everything of this run is in code/saved_models/quickstart: look at classes.png," \
		"augmented_batch.png, curves.png, confusion_matrix.png and mistakes.png."

test: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check code tests benchmarks
	$(VENV)/bin/ruff format --check code tests benchmarks
	$(RUN) -m pytest

determinism: $(VENV)/.installed
	$(RUN) tests/determinism.py

crash-test: $(VENV)/.installed-dev
	$(RUN) tests/crash.py --kills 50

fuzz: $(VENV)/.installed-dev
	$(RUN) tests/fuzz.py --cases 2000

bench: $(VENV)/.installed-bench
	$(RUN) benchmarks/throughput.py

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis

$(VENV)/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "error: expected Python 3.11 to 3.13, found" \
		"$$($(PYTHON) --version 2>&1); name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || \
		{ echo "error: expected Python's venv module, found none; install it, on Debian and" \
		"Ubuntu with: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --requirement requirements.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(RUN) -m pip install --quiet --requirement requirements-dev.txt
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed requirements-bench.txt
	$(RUN) -m pip install --quiet --requirement requirements-bench.txt
	@touch $@
