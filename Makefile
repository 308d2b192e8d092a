# Everything that is done to Alertwell, from a fresh clone: `make demo` and `make test` set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
READY := $(VENV)/.ready
RIVALS := .venv-rivals
STORM = $(BIN)/python -m tests.chaos.run $(if $(SEED),--seed $(SEED)) $(if $(JSON),--json $(JSON))
export UV_NO_PROGRESS := 1
export VIRTUAL_ENV := $(CURDIR)/$(VENV)

.DEFAULT_GOAL := help
.PHONY: help setup demo test chaos soak bench check audit format lock clean

help:  ## What there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

setup: $(READY)  ## The virtual environment with all that is needed, locked by hashes

$(READY): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Alertwell needs Python 3.11 or newer; $$($(PYTHON) --version) found. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "python3 -m venv does not work here. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@test -x $(UV) || $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		"$$(sed -n 's/^uv = "\(.*\)"/uv\1/p' pyproject.toml)"
	$(UV) pip install --quiet --require-hashes -r requirements-dev.lock
	$(UV) pip install --quiet --no-deps --no-build-isolation -e .
	@touch $(READY)

demo: $(READY)  ## The whole of it against a bundled simulator; nothing to configure
	$(BIN)/alertwell demo

test: $(READY)  ## All tests, against a real PostgreSQL that they bring along
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

chaos: $(READY)  ## What takes minutes: the tests that are marked so, then a storm [MINUTES=5] [SEED=n] [JSON=file]
	$(BIN)/python -m pytest -m chaos
	$(STORM) --minutes $(or $(MINUTES),5)

soak: $(READY)  ## The storm for HOURS=n, calmer, and what grows meanwhile [SEED=n] [JSON=file]
	$(if $(HOURS),,$(error HOURS=n says how long, such as make soak HOURS=8))
	$(STORM) --hours $(HOURS)

check: $(READY)  ## Formatting, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: $(READY)  ## What is known against the locked dependencies; says so where nobody can be asked
	@$(BIN)/python .ci/audit.py

format: $(READY)  ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(READY)  ## Resolve dependencies anew, with hashes and without addresses
	$(UV) pip compile --upgrade --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		pyproject.toml -o requirements.lock
	$(UV) pip compile --upgrade --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		pyproject.toml --extra embedded --group dev -o requirements-dev.lock

bench: $(READY) $(RIVALS)/.ready  ## One table against dlt and the floor of the database (QUICK=1: in two minutes, nothing kept)
	PYTHONPATH=. $(BIN)/python benchmarks/bench.py --rivals $(RIVALS)/bin/python $(if $(QUICK),--quick)

$(RIVALS)/.ready: benchmarks/rivals.lock
	@$(PYTHON) -m venv --without-pip $(RIVALS)
	VIRTUAL_ENV=$(CURDIR)/$(RIVALS) $(UV) pip install --quiet --compile-bytecode --require-hashes -r benchmarks/rivals.lock
	@touch $@

clean:  ## Remove what setup and runs made, the demo's database included
	rm -rf $(VENV) $(RIVALS) .alertwell .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
