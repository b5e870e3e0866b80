# Commands for people; `make help` lists them.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p >/dev/null && \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/.ready
# PyTorch's build: auto, cpu, cuda, or a backend of uv such as cu126. Empty: keep the installed build, else auto.
TORCH ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup up test test-slow check format docs site proto bench clean distclean FORCE

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 20
	@echo '  Every target takes TORCH=auto|cpu|cuda: the build of PyTorch to install. Default: auto, by the GPU found.'

setup: $(STAMP) ## create .venv, install the pinned dependencies, fetch the official weights

# A build named on the command line replaces another one that is installed.
ifneq ($(TORCH),)
ifneq ($(TORCH),$(shell cat .venv/.torch 2>/dev/null))
$(STAMP): FORCE
endif
endif

$(STAMP): pyproject.toml clients/python/pyproject.toml requirements.lock
	@test -n '$(PYTHON)' || { echo 'Python 3.11, 3.12 or 3.13 is needed; name one with make PYTHON=…' >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo 'Installing into .venv. The first time this takes a minute or more.'
	$(BIN)/python deploy/pytorch.py $(TORCH)
	$(BIN)/python -m pip install --quiet --quiet -c requirements.lock -e clients/python -e '.[all,dev]'
	$(BIN)/skipvsr models --fetch
	@touch $@

up: $(STAMP) ## start the service; ^C stops it
	@exec $(BIN)/skipvsr up

test: $(STAMP) ## run the test suite in three processes; each starts its own Redis
	$(BIN)/python -m pytest -m 'not slow' -n 3 --dist loadfile --no-loadscope-reorder --session-timeout 1800 --durations 20 --durations-min 3

test-slow: $(STAMP) ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow --timeout 1800

check: $(STAMP) ## check format, lint, types, imports between packages, Kubernetes manifests, and links in the docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m deploy.manifests
	@$(MAKE) --no-print-directory site

format: $(STAMP) ## format the code and apply lint's fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## write .env.example and docs/configuration.md from the settings
	$(BIN)/python -m deploy.generate_docs

site: $(STAMP) ## build docs/ into build/site; a dead link is an error
	$(BIN)/python -m deploy.generate_docs site
	$(BIN)/zensical build --strict

proto: $(STAMP) ## generate skipvsr.v1 from upscaler.proto; the generator's version is pinned
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=proto --pyi_out=proto --grpc_python_out=proto skipvsr/v1/upscaler.proto

bench: $(STAMP) ## measure network, pipeline, service and gRPC; writes bench/bench.json and bench/bench.png
	$(BIN)/python -m benchmarks $(CLIP)

clean: ## remove caches, the site and what tests left
	rm -rf build .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean ## also remove .venv; data/ stays
	rm -rf .venv *.egg-info
