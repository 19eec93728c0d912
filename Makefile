# Two commands do everything: `make up` and `make test`. Both install what they need.
SHELL := /bin/bash
VENV := .venv
PYTHON := /usr/bin/python3
HOME_DIR ?= /var/lib/casemate
PORT ?= 443
FUZZ_SECONDS ?= 60

.PHONY: help up down test check unit fuzz lock clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 10

up: $(VENV)/.ready ## Install what is needed, build the image, boot the host measured, run the demo VM
	@$(VENV)/bin/casemate --home $(HOME_DIR) up --port $(PORT)

down: ## Stop the host and everything on it
	@$(VENV)/bin/casemate --home $(HOME_DIR) down

test: $(VENV)/.tested ## Install what is needed, then run all checks and all tests
	@tools/test

check: $(VENV)/.tested ## Lint, types and import contracts only
	@tools/test check

unit: $(VENV)/.tested ## Unit tests only: no root, no network
	@tools/test unit

fuzz: $(VENV)/.tested ## Run the coverage-guided fuzzers, FUZZ_SECONDS each
	@for one in packages elf; do \
	    $(VENV)/bin/python tests/fuzz/$$one.py -max_total_time=$(FUZZ_SECONDS) || exit 1; done

$(VENV)/.ready: packages.txt requirements/build.txt requirements/runtime.txt pyproject.toml tools/install
	@tools/install runtime

$(VENV)/.tested: $(VENV)/.ready packages.txt requirements/dev.txt
	@tools/install dev

lock: ## Resolve the dependencies again and pin them by hash
	@tools/lock

clean: ## Remove the virtual environment and what tools cached
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build
