# make demo: the whole loop on the built-in pair of small models
# make test: the tests
# make env:  the environment alone, .venv from pinned versions

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test env lint docs

env: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: env
	$(BIN)/snakemake --profile profiles/local
	$(BIN)/expertchat show

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules

test: lint
	$(BIN)/python -m pytest

docs: env
	$(BIN)/expertchat settings > config/README.md
