# Prerequisite: Python >= 3.10 and make; all targets set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One file's tests stay in one process, so that what they share is built once. WORKERS=0: no others.
WORKERS ?= 2
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: demo study-demo docs floors check test suite lint types benchmarks-list clean

demo: $(STAMP)
	$(BIN)/python examples/digits.py --quiet

# Three processes share a study on a PostgreSQL server of their own, and one of them is killed.
study-demo: $(STAMP)
	$(BIN)/python tools/study_demo.py

# The documentation as a site in the folder site; warnings are errors.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html"

# The tests with the oldest versions of all dependencies, in an environment of their own.
floors: $(STAMP)
	$(BIN)/python tools/floors.py --python $(PYTHON)

# Without the tests that are marked slow, and without coverage.
check: lint types
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

# Types are checked beside the tests: mypy takes a minute of one core.
test: lint
	$(MAKE) --jobs=2 types suite

suite: $(STAMP)
	$(PYTEST) --cov --cov-report=term-missing:skip-covered $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# What there is, and what each takes: python -m benchmarks run NAME
benchmarks-list: $(STAMP)
	$(BIN)/python -m benchmarks list

clean:
	rm -rf $(VENV) .floors site runs lightning_logs .ruff_cache .mypy_cache .coverage

# torch is installed by itself first: its pinned version comes as a CPU build where one is at hand.
# Nothing is compiled ahead: most of the 16 000 modules are never imported.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt torch
	$(PIP) -c constraints.txt -e '.[dev]'
	touch $@
