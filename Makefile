# Everything runs in .venv, which the first target that needs it makes. Only Python >= 3.10, make and git are needed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench faults clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --editable '.[sim,dev]'
	touch $@

demo: .venv/installed
	$(BIN)/python scripts/demo.py

test: .venv/installed
	$(BIN)/python -m pytest -m "not slow"

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/installed
	$(BIN)/python scripts/benchmark.py

faults: .venv/installed
	$(BIN)/python -m pytest -m slow tests/test_faults.py -s

clean:
	rm -rf .venv runs build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
