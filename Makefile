# `make help` lists what there is. The first target that needs packages builds .venv from constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
EXAMPLE_STORE := .decant-demo

.DEFAULT_GOAL := help
.PHONY: help demo test check fix bench parity quality results docs lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-8s %s\n' "$$name" "$$text"; done

demo: $(VENV)/.run ## Index the example corpus and search it by meaning (nothing is downloaded but packages)
	@BIN=$(BIN) STORE=$(EXAMPLE_STORE) bash examples/demo.sh

test: check ## Lint, types and the test suite
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile $(TESTS)

check: $(VENV)/.dev ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

fix: $(VENV)/.dev ## Put imports, formatting and whatever else a machine can repair in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench ## Compare encoding speed with sentence-transformers, side by side
	$(BIN)/python benchmarks/encode.py

parity: $(VENV)/.dev ## Compare every published format with a plain statement of its method
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/parity.py

quality: $(VENV)/.bench $(VENV)/.train ## Score decant-mini beside BM25 and all-MiniLM-L6-v2, and write the tables of docs/quality.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/quality.py --page docs/quality.md

results: $(VENV)/.bench $(VENV)/.train ## Train and score every step from a decoder to an encoder, and write docs/results.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/results.py

docs: $(VENV)/.run ## Write docs/cli.md anew from the commands themselves
	$(BIN)/python -m decant.service.cli.reference > docs/cli.md.new && mv docs/cli.md.new docs/cli.md

lock: $(VENV)/.dev $(VENV)/.bench ## Write constraints.txt anew from what .venv holds
	@{ sed '/^[^#]/,$$d' constraints.txt; $(PIP) freeze --all --exclude-editable | grep -viE '^(pip|decant)[ =@]' \
		| sed -E 's/\+cpu$$//'; } > constraints.txt.new && mv constraints.txt.new constraints.txt

clean: ## Remove what was built or cached here, .venv and the demo's index included
	rm -rf $(VENV) $(EXAMPLE_STORE) build dist *.egg-info .pytest_cache .ruff_cache

# Stamps: each layer is installed once, and again when the pins or the declared dependencies change.

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Decant needs Python 3.11 or newer: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch comes first and alone: it is the largest package, and the one an accelerator's owner may want to choose.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(PIP) install --quiet --disable-pip-version-check -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	@touch $@

$(VENV)/.run: $(VENV)/.torch pyproject.toml
	$(PIP) install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.run
	$(PIP) install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@

$(VENV)/.train: $(VENV)/.run
	$(PIP) install --quiet --disable-pip-version-check -c constraints.txt -e '.[train]'
	@touch $@
