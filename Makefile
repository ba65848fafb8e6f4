# Each target sets up .venv (VENV) by itself: once, and again only when pyproject.toml changes.
PYTHON ?= python3
CONFIG ?= configs/vit_digits.py
ARGS ?=
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help train compare test test-slow lint package docs format parity parity-world curves layouts soak fuzz bench clean

help:
	@echo "make train      train the digits example, or CONFIG=configs/NAME.py"
	@echo "make compare    train a ViT and a CNN on digits and compare them"
	@echo "make test       the whole suite; test-slow: the long proofs"
	@echo "make bench      time every model against PyTorch"
	@echo "make docs       the API reference, as pages in build/api"
	@echo "make lint, package, format, parity, parity-world, curves, layouts, soak, fuzz, clean: see CONTRIBUTING.md"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of extras; a wider set also serves the narrower ones.
$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.$(if $(filter base,$*),,[$*])'
	@touch $@

train: $(VENV)/.installed-base
	$(BIN)/python train_jax.py --config $(CONFIG) --if_finished=again $(ARGS)

compare: $(VENV)/.installed-base
	$(BIN)/python train_jax.py --config configs/vit_vs_cnn_digits.py --if_finished=again $(ARGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 -m "not slow" $(ARGS)

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy

package: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build
	.ci/package dist/*.whl $(PYTHON)

docs: $(VENV)/.installed-dev
	$(BIN)/python docs/reference build/api

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

parity: $(VENV)/.installed-test
	$(BIN)/python -m tests.parity.measure

# Beside the libraries themselves: an environment of several GB of its own, newer PyTorch included.
WORLD := .venv-world
$(WORLD)/.installed: pyproject.toml Makefile
	$(PYTHON) -m venv $(WORLD)
	$(WORLD)/bin/python -m pip install --quiet torch==2.14.1 torchvision==0.29.1
	$(WORLD)/bin/python -m pip install --quiet timm transformers peft
	$(WORLD)/bin/python -m pip install --quiet -e .
	@touch $@

parity-world: $(WORLD)/.installed
	$(WORLD)/bin/python -m tests.world.measure

curves: $(VENV)/.installed-test
	$(BIN)/python -m tests.parity.curves $(ARGS)

layouts: $(VENV)/.installed-test
	$(BIN)/python -m tests.layouts.measure

soak: $(VENV)/.installed-test
	$(BIN)/python -m tests.soak $(ARGS)

fuzz: $(VENV)/.installed-test
	$(BIN)/python -m tests.fuzz $(ARGS)

bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf .venv .venv-newest .venv-world build dist *.egg-info
