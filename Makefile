# Each target sets up .venv by itself: once, and again only when pyproject.toml changes.
PYTHON ?= python3
CONFIG ?= configs/vit_digits.py
ARGS ?=
BIN := .venv/bin

.PHONY: help train compare test test-slow lint format parity curves layouts soak fuzz bench clean

help:
	@echo "make train      train the digits example, or CONFIG=configs/NAME.py"
	@echo "make compare    train a ViT and a CNN on digits and compare them"
	@echo "make test       the whole suite; test-slow: the long proofs"
	@echo "make bench      time every model against PyTorch"
	@echo "make lint, format, parity, curves, layouts, soak, fuzz, clean: see CONTRIBUTING.md"

.venv/bin/python:
	$(PYTHON) -m venv .venv

# One stamp for each set of extras; a wider set also serves the narrower ones.
.venv/.installed-%: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet -e '.$(if $(filter base,$*),,[$*])'
	@touch $@

train: .venv/.installed-base
	$(BIN)/python train_jax.py --config $(CONFIG) --if_finished=again $(ARGS)

compare: .venv/.installed-base
	$(BIN)/python train_jax.py --config configs/vit_vs_cnn_digits.py --if_finished=again $(ARGS)

test: .venv/.installed-test
	$(BIN)/python -m pytest -n 2 -m "not slow" $(ARGS)

test-slow: .venv/.installed-test
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo

format: .venv/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

parity: .venv/.installed-test
	$(BIN)/python -m tests.parity.measure

curves: .venv/.installed-test
	$(BIN)/python -m tests.parity.curves $(ARGS)

layouts: .venv/.installed-test
	$(BIN)/python -m tests.layouts.measure

soak: .venv/.installed-test
	$(BIN)/python -m tests.soak $(ARGS)

fuzz: .venv/.installed-test
	$(BIN)/python -m tests.fuzz $(ARGS)

bench: .venv/.installed-test
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info
