# Everything a person or a machine does with this repository. Each target sets up what it needs:
# Python >= 3.11, make and a C toolchain are enough to begin with.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
SOURCES := bench epp scorers tests

# Without access to managed interpreters; a user's own index settings stay in force.
UV := UV_PYTHON_DOWNLOADS=never $(BIN)/uv --quiet
COMPILE := $(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --no-annotate

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The tests start Python some thousand times; to compile everything each time takes 0.4 s of CPU of each start.
unexport PYTHONDONTWRITEBYTECODE

help:  ## list the targets
	@sed -nE 's/^([a-z]+):.*  ## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 13

setup: $(STAMP)  ## make the virtual environment from the lock file; quick when nothing changed
	@:

demo: $(STAMP)  ## Envoy, the picker and three llama.cpp servers, live [SECONDS=30, from 9 to 600] [JSON=out.json]
	@$(BIN)/python -m bench.demo $(if $(SECONDS),--seconds "$(SECONDS)") $(if $(JSON),--json "$(JSON)")

check: $(STAMP)  ## format, lint, types, import rules, generated code
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@tools/check-proto $(BIN)/python

test: $(STAMP)  ## everything: check, unit and property tests, system tests
	@# Kubernetes' programs take minutes to build the first time, beside which the other tests can run;
	@# `system` builds what is still missing, aloud.
	@set -m; nice -n 19 $(BIN)/python -m tests.system.kube_plane >/dev/null 2>&1 & built=$$!; \
	trap 'kill -- -$$built 2>/dev/null || true' EXIT; \
	$(MAKE) --no-print-directory check unit; wait $$built || true; $(MAKE) --no-print-directory system

unit: $(STAMP)  ## unit and property tests only, on up to four cores [ARGS=pytest arguments]
	@$(BIN)/python -m pytest tests --ignore=tests/system --numprocesses=auto --maxprocesses=4 $(ARGS)

system: $(STAMP)  ## tests with the real Envoy, llama.cpp servers and Kubernetes API [ARGS=pytest arguments]
	@$(BIN)/python -m tests.system.kube_plane
	@$(BIN)/python -m pytest tests/system $(ARGS)

bench: $(STAMP)  ## what the picker costs, through Envoy and in Kubernetes [VERSUS="another picker" SERVERS="fast grpcio"]
	@$(BIN)/python -m bench.overhead $(if $(VERSUS),--versus "$(VERSUS)") $(if $(SERVERS),--servers "$(SERVERS)")
	@$(BIN)/python -m bench.picks
	@$(BIN)/python -m bench.pod_events
	@$(BIN)/python -m bench.pools
	@$(BIN)/python -m bench.compiling
	@$(BIN)/python -m bench.controller

profile: $(STAMP)  ## where a request's CPU goes: flame graph, cost of each stage, instructions
	@$(BIN)/python -m bench.profile

conformance: $(STAMP)  ## h2spec against our own driver; writes docs/h2spec.md (needs Go)
	@$(BIN)/python -m tests.system.test_h2spec

fuzz: $(STAMP)  ## mutated conversations into our own driver, in process [SECONDS=3600]
	@$(BIN)/python -m bench.fuzz $(if $(SECONDS),--seconds "$(SECONDS)")

failover: $(STAMP)  ## servers die, hang, load and lie under load [SCENARIO="kill hang" VERSUS="another picker" ARGS=...]
	@$(BIN)/epp bench failover $(addprefix --scenario ,$(SCENARIO)) $(if $(VERSUS),--versus "$(VERSUS)") $(ARGS)

soak: $(STAMP)  ## 2,000 streams whose clients leave at every moment, then a fleet that fails at random [SECONDS]
	@$(BIN)/python -m bench.soak $(if $(SECONDS),--seconds "$(SECONDS)")
	@$(BIN)/python -m bench.fleet_soak $(if $(SECONDS),--seconds "$(SECONDS)")

chaos: $(STAMP)  ## the second part of soak: 8 endpoints, 100 requests/s, random faults [SECONDS=1200]
	@$(BIN)/python -m bench.fleet_soak $(if $(SECONDS),--seconds "$(SECONDS)")

proto: $(STAMP)  ## generate epp/wire/pb from proto/
	@tools/generate-proto $(BIN)/python .

format: $(STAMP)  ## rewrite the sources in the project's format
	@$(BIN)/ruff check --fix-only --quiet $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

lock: $(STAMP)  ## resolve the lock files again [UPGRADE=1 for newer versions]
	@echo uv | $(COMPILE) $(if $(UPGRADE),--upgrade) - --output-file requirements/uv.lock
	@$(COMPILE) $(if $(UPGRADE),--upgrade) pyproject.toml --output-file requirements/run.lock
	@$(COMPILE) $(if $(UPGRADE),--upgrade) pyproject.toml --extra bench --extra otel --group dev \
		--constraints requirements/run.lock --output-file requirements/dev.lock
	@$(COMPILE) $(if $(UPGRADE),--upgrade) pyproject.toml --extra otel \
		--constraints requirements/dev.lock --output-file requirements/image.lock
	@echo hatchling | $(COMPILE) $(if $(UPGRADE),--upgrade) - \
		--constraints requirements/dev.lock --output-file requirements/build.lock

manifests: $(STAMP)  ## render deploy/kubernetes from the chart (needs Go the first time, for helm)
	@$(BIN)/python -m tests.system.helm

clean:  ## remove the environment and everything built
	@rm -rf $(VENV) .build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(BIN)/uv: requirements/uv.lock
	@tools/make-venv $(VENV)
	@$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements/uv.lock
	@touch $@

$(STAMP): $(BIN)/uv requirements/uv.lock requirements/dev.lock pyproject.toml
	@echo "setting up $(VENV)" >&2
	@VIRTUAL_ENV=$(VENV) $(UV) pip sync --require-hashes requirements/uv.lock requirements/dev.lock
	@VIRTUAL_ENV=$(VENV) $(UV) pip install --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: help setup demo check test unit system bench profile failover soak chaos proto format lock manifests clean
