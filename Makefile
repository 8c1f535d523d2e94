PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONTROLLER ?= runs/controller
SOURCES := controller envs training benchmarks recipes
# Environment steps of `make run`: an eighth of what `allot train` takes by default, for two minutes.
STEPS ?= 1000000
# Processes that the tests run in, a file or a page at a time: `make test WORKERS=8` on more cores.
# Tests wait a third of their time, for servers and for what they start: three keep two cores busy.
WORKERS ?= 3
PYTEST := $(BIN)/pytest --numprocesses $(WORKERS) --dist loadgroup --no-loadscope-reorder

# What `make real` takes: two models, as `allot record` names them, and questions per split.
SMALL ?= Qwen/Qwen2.5-Coder-0.5B-Instruct
LARGE ?= Qwen/Qwen2.5-Coder-1.5B-Instruct
REAL ?= runs/real
QUESTIONS ?= 60
TOKENS ?= 400

.PHONY: run real test check docs bench

# torch comes first and pinned: a plain `torch` may bring gigabytes of CUDA along.
$(BIN)/allot: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -e '.[dev]'
	@touch $@

run: $(BIN)/allot
	$(BIN)/allot train --out $(CONTROLLER) --steps $(STEPS)
	$(BIN)/allot evaluate $(CONTROLLER)
	$(BIN)/allot answer --controller $(CONTROLLER) --examples 4 \
		"Spell this word backward (example: sun -> nus): planet"

real: $(BIN)/allot
	mkdir -p $(REAL)
	test -f $(REAL)/questions.jsonl || $(BIN)/python -m recipes.real_questions $(REAL)/questions.jsonl
	$(BIN)/allot record --small small=$(SMALL) --large large=$(LARGE) --out $(REAL)/traces \
		--questions $(REAL)/questions.jsonl --limit $(QUESTIONS) --samples 6 --max-new-tokens $(TOKENS) \
		--prompt '{question} Reason step by step, and put your final answer within \boxed{}.'
	$(BIN)/allot train --traces $(REAL)/traces --out $(REAL)/controller --steps 200000 --num-envs 256
	$(BIN)/allot evaluate $(REAL)/controller --num-prices 4
	$(BIN)/allot answer --controller $(REAL)/controller --small small=$(SMALL) --large large=$(LARGE) \
		"A farmer has 3 cows and 5 hens. How many legs is that?"

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
