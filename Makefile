# One task runner; each target works on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.requirements.stamp
MAVEN := $(shell command -v mvn 2>/dev/null)

.PHONY: help demo dev test test-fast simulation mutants lint format bench proto lock kafka kubernetes clean

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1|/' | column -t -s'|'

$(STAMP): requirements.lock pyproject.toml services/placement_engine/domain/scoring.c
	@command -v $(PYTHON) >/dev/null || { echo "berth: $(PYTHON) not found; Python 3.11 or newer is needed" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked requirements into $(VENV)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

venv: $(STAMP)

demo: $(STAMP)  ## The whole system on this machine: four services, a mixed fleet, 200 jobs, a summary
	@$(BIN)/berth demo

dev: $(STAMP)  ## The same system, kept running
	@$(BIN)/berth dev

test: $(STAMP)  ## The whole test suite
	@$(PYTHON) deploy/controlplane/control_plane.py build --where-possible >/dev/null
	@$(PYTHON) deploy/controlplane/kubelet.py build --where-possible >/dev/null
	@$(BIN)/pytest

test-fast: $(STAMP)  ## Unit tests only
	@$(BIN)/pytest tests/unit

simulation: $(STAMP)  ## Ten thousand random histories of the core, checked by an oracle
	@BERTH_SEEDS=10000 $(BIN)/pytest tests/simulation

mutants: $(STAMP)  ## Breaks the core's rules one by one: the simulation must notice each
	@$(BIN)/python -m tests.simulation.mutants

lint: $(STAMP)  ## ruff, mypy strict, import-linter, buf
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/buf lint
	@deploy/proto-breaking
	@deploy/generate --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP)  ## Format and fix
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(STAMP)  ## Every benchmark; figures on standard output
	@$(BIN)/python -m tests.benchmarks

proto: $(STAMP)  ## Python stubs from protos/
	@deploy/generate

lock: $(STAMP)  ## requirements.lock from pyproject.toml
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-emit-index-url --no-emit-find-links --no-annotate --all-extras pyproject.toml -o requirements.lock

kafka:  ## Apache Kafka 4 from its Maven artefacts, in the foreground on 127.0.0.1:9092
	@$(PYTHON) deploy/kafka/broker.py run

kubernetes:  ## A real Kubernetes control plane with simulated nodes, in the foreground; built once (7 minutes)
	@$(PYTHON) deploy/controlplane/control_plane.py run

clean:  ## Removes what the targets made
	@rm -rf $(VENV) .berth .mypy_cache .ruff_cache .pytest_cache .hypothesis build services/placement_engine/domain/_scoring*
