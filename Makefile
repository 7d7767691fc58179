# Everything for a fresh machine: `make demo` and `make test`. Python 3.11 or newer; another one: make PYTHON=python3.12 test
.DEFAULT_GOAL := help
.PHONY: help demo test slow lowest lint docs manifest clean

PYTHON ?= python3
# Installed first and exactly, so that a CPU build from pip's configured sources is taken where there is one (it has a
# local version such as +cpu, which pip prefers). Where there is none, Linux gets the much larger CUDA build; to avoid
# that, point PIP_EXTRA_INDEX_URL at PyTorch's CPU wheels.
TORCH ?= torch==2.13.0
TEST_OPTIONS ?= -n 2

# One thread per process: faster for molecules, and several test processes run side by side.
export OMP_NUM_THREADS = 1
export MKL_NUM_THREADS = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq

help:
	@echo "make demo      set up, optimise paracetamol from its SMILES, write demo/paracetamol.{xyz,sdf,png}"
	@echo "make test      set up, run the tests"
	@echo "make slow      set up, run the slow tests too"
	@echo "make lowest    run the tests with the lowest versions of the dependencies, in .venv-lowest"
	@echo "make lint      set up, check style and types"
	@echo "make docs      set up, build the documentation in site/"
	@echo "make manifest  renew checkpoints/manifest.json after a checkpoint has changed"
	@echo "make clean     delete the virtual environment and what builds and tests leave behind"

demo: .venv/demo
	@mkdir -p demo
	@echo "== optimising paracetamol"
	@$(BIN)/python examples/paracetamol.py

test: .venv/test
	@echo "== running the tests"
	@$(BIN)/python -m pytest $(TEST_OPTIONS)

slow: .venv/test
	@echo "== running all tests, the slow ones too"
	@$(BIN)/python -m pytest $(TEST_OPTIONS) -m "not gpu and not network"

lowest: .venv-lowest/test
	@echo "== running the tests with the lowest versions of the dependencies"
	@.venv-lowest/bin/python -m pytest $(TEST_OPTIONS) -W default

lint: .venv/test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright

docs: .venv/docs
	@echo "== building the documentation in site/"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

manifest: .venv/demo
	@$(BIN)/python -c "from physcon_ase.model.checkpoint import write_manifest; print(*write_manifest('checkpoints'))"

clean:
	rm -rf .venv .venv-lowest build dist *.egg-info .pytest_cache .ruff_cache demo site

# The files below say what has been installed; each is made again when the one before it, or pyproject.toml, changes.
.venv/torch:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'physcon_ase needs Python 3.11 or newer, this is ' + sys.version)"
	@echo "== creating .venv with $$($(PYTHON) --version) and installing $(TORCH) (once, a minute or more)"
	@$(PYTHON) -m venv .venv
	@$(PIP) "$(TORCH)"
	@touch $@

.venv/demo: .venv/torch pyproject.toml
	@echo "== installing physcon-ase and what it needs"
	@$(PIP) --editable ".[plot]"
	@touch $@

.venv/test: .venv/demo
	@echo "== installing the test tools"
	@$(PIP) --editable ".[test]"
	@touch $@

.venv-lowest/test: pyproject.toml tests/lowest.txt
	@$(PYTHON) -m venv .venv-lowest
	@.venv-lowest/bin/python -m pip install -qq "$(TORCH)"
	@.venv-lowest/bin/python -m pip install -qq --constraint tests/lowest.txt --editable ".[test]"
	@touch $@

.venv/docs: .venv/demo
	@echo "== installing the tools of the documentation"
	@$(PIP) --editable ".[docs]"
	@touch $@
