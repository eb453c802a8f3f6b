# Prerequisite: Python >= 3.10 and make; all targets set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One file's tests stay in one process, so that what they share is built once. WORKERS=0: no others.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: demo check test lint types bench clean

demo: $(STAMP)
	$(BIN)/python examples/digits.py --quiet

# Without the tests that are marked slow, and without coverage.
check: lint types
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test: lint types
	$(PYTEST) --cov --cov-report=term-missing:skip-covered $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python benchmarks/coverage.py
	$(BIN)/python benchmarks/critical_fit.py
	$(BIN)/python benchmarks/quadratic.py
	$(BIN)/python benchmarks/gradient_error.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/overhead_ddp.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/examples_probe.py
	$(BIN)/python benchmarks/curvature.py
	$(BIN)/python benchmarks/geometries.py
	$(BIN)/python benchmarks/large_batch_model.py
	$(BIN)/python benchmarks/setups.py
	$(BIN)/python benchmarks/policy.py
	$(BIN)/python benchmarks/adaptive.py
	$(BIN)/python benchmarks/adaptive_report.py

clean:
	rm -rf $(VENV) runs lightning_logs .ruff_cache .mypy_cache .coverage

# torch is installed by itself first: its pinned version comes as a CPU build where one is at hand.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
