PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONTROLLER ?= runs/controller
SOURCES := controller envs training

.PHONY: run test check bench clean

# torch first, from pip: the CPU build where pip is told where to find one.
$(BIN)/allot: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -e '.[dev]'
	@touch $@

run: $(BIN)/allot
	$(BIN)/allot train --out $(CONTROLLER)
	$(BIN)/allot evaluate $(CONTROLLER)
	$(BIN)/allot answer --examples 5 --controller $(CONTROLLER)

test: $(BIN)/allot
	$(BIN)/pytest

check: $(BIN)/allot
	$(BIN)/ruff format --check $(SOURCES) tests
	$(BIN)/ruff check $(SOURCES) tests
	$(BIN)/mypy
	$(BIN)/pytest
