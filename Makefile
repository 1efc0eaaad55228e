# Everything runs in .venv, which is made once and made again when pyproject.toml or constraints.txt changes.
SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
DATA_DIR ?= .limbeck/demo
TEST_PROCESSES ?= 2
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$p" && break; done)

STAMP := $(VENV)/.installed
RUN := $(VENV)/bin/python -m
PIP := $(RUN) pip --disable-pip-version-check --no-input

.PHONY: help demo test serve lint types check bench openapi format clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP) ## distil the shipped teacher: a small student in under 5 minutes
	@LIMBECK_DATA_DIR="$${LIMBECK_DATA_DIR:-$(DATA_DIR)}" $(RUN) limbeck demo

test: $(STAMP) ## run all tests (ARGS="-k word" narrows them)
	@$(RUN) pytest -n $(TEST_PROCESSES) --dist worksteal $(ARGS)

serve: $(STAMP) ## run the service on the demo's data (DATA_DIR=folder for another)
	@$(RUN) limbeck serve --data-dir "$(DATA_DIR)"

lint: $(STAMP) ## style, format and direction of imports
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(VENV)/bin/lint-imports

types: $(STAMP) ## mypy, strict
	@$(RUN) mypy

check: lint types ## lint and types

bench: $(STAMP) ## images per second against a plain training loop
	@$(VENV)/bin/python benchmarks/train_speed.py $(ARGS)

openapi: $(STAMP) ## write openapi.json anew
	@$(RUN) limbeck openapi > openapi.json.tmp && mv openapi.json.tmp openapi.json

format: $(STAMP) ## let ruff mend what it can
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

clean: ## remove the environment, caches and the demo's data
	rm -rf $(VENV) .limbeck demo-student dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first and both under the constraints: otherwise a later dependency replaces it by another build.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { \
		echo "Limbeck needs Python 3.11 or later, and there is none on PATH."; \
		echo "On Debian: apt install python3 python3-venv; or say where it is: make PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Limbeck needs Python 3.11 or later; $(PYTHON) is older."; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments. On Debian: apt install python3-venv"; exit 1; }
	@echo "Making $(VENV) with $$("$(PYTHON)" --version) ..."
	@"$(PYTHON)" -m venv $(VENV)
	@echo "Installing torch (some 200 MB) ..."
	@$(PIP) install -c constraints.txt torch
	@echo "Installing Limbeck and its other dependencies ..."
	@$(PIP) install --quiet -c constraints.txt -e '.[train,onnx,parquet,s3,zoo,dev]'
	@touch $@
