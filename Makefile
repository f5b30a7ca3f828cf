# make figures: everything from a fresh clone to the paper's figures.  make test: the tests.
# Both make their own virtual environment, .venv, from the pinned requirements.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python
unexport PYTHONDONTWRITEBYTECODE # else each of the tests' many processes compiles every module anew

.PHONY: figures test style types tests test-benchmarks clean

figures: $(VENV)/.installed
	$(RUN) reproduce.py

test: style
	$(MAKE) --no-print-directory --jobs 2 types tests # mypy works on one core, for a minute

style: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.installed-dev
	$(VENV)/bin/mypy

tests: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --dist loadgroup --no-loadscope-reorder

test-benchmarks: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m benchmark

$(VENV)/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed; name one with make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import platform, sys; sys.exit(not (sys.version_info < (3, 12) and sys.platform == "linux" and platform.machine() == "x86_64"))' \
		|| echo "This Python has no rust_circuit wheel (Linux x86-64 and Python 3.11 alone have one): the torch engine is used."
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV)
