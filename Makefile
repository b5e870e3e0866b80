# Everything a person types. `make help` lists it.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p >/dev/null && \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/.ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup up test test-slow check format docs proto bench clean distclean

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 20

setup: $(STAMP) ## make .venv, install the pinned dependencies, fetch the official weights

$(STAMP): pyproject.toml requirements.lock
	@test -n '$(PYTHON)' || { echo 'Python 3.11, 3.12 or 3.13 is needed; name one with make PYTHON=…' >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo 'Installing into .venv; the first time this takes a minute or more.'
	$(BIN)/python -m pip install --quiet --quiet -c requirements.lock -e '.[all,dev]'
	$(BIN)/skipvsr models --fetch
	@touch $@

up: $(STAMP) ## start the service; ^C stops it
	@exec $(BIN)/skipvsr up

test: $(STAMP) ## the test suite, in two processes, each with a real Redis that it starts itself
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadfile

test-slow: $(STAMP) ## the tests that take minutes
	$(BIN)/python -m pytest -m slow --timeout 1800

check: $(STAMP) ## format, lint, types, and who may import whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## format the code and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## write .env.example and README's table of settings from the settings
	$(BIN)/python -m commands.settings_docs

proto: $(STAMP) ## generate skipvsr.v1 from upscaler.proto (the generator is pinned; a test compares)
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=proto --pyi_out=proto --grpc_python_out=proto skipvsr/v1/upscaler.proto

bench: $(STAMP) ## measure network, pipeline, service and gRPC: a table, bench/bench.json, bench/bench.png
	$(BIN)/python -m benchmarks $(CLIP)

clean: ## remove caches and what tests left
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean ## also remove .venv; data/ stays
	rm -rf .venv *.egg-info
