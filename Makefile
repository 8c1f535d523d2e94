PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONTROLLER ?= runs/controller
SOURCES := controller envs training benchmarks recipes
# Environment steps of `make run`: half of what `allot train` takes by default, for a few minutes.
STEPS ?= 4000000
# Processes that the tests run in, a file at a time: `make test WORKERS=8` on a larger machine.
WORKERS ?= 2
PYTEST := $(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile

.PHONY: run test check docs bench

# torch comes first and pinned: a plain `torch` may bring gigabytes of CUDA along.
$(BIN)/allot: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -e '.[dev]'
	@touch $@

run: $(BIN)/allot
	$(BIN)/allot train --out $(CONTROLLER) --steps $(STEPS)
	$(BIN)/allot evaluate $(CONTROLLER)
	$(BIN)/allot answer --examples 5 --controller $(CONTROLLER)

test: $(BIN)/allot
	$(PYTEST)

check: $(BIN)/allot
	$(BIN)/ruff format --check $(SOURCES) docs examples tests
	$(BIN)/ruff check $(SOURCES) docs examples tests
	$(BIN)/mypy
	$(PYTEST)

bench: $(BIN)/allot
	$(BIN)/python -m benchmarks

docs: $(BIN)/allot
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
