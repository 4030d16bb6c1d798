# `make` sets up and runs the main job; `make test` sets up and runs the tests. Both can be repeated at no cost.
# The tools live in a private virtual environment, .venv. PYTHON chooses the interpreter that makes it: make PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SNAKEMAKE := $(BIN)/python -m snakemake --workflow-profile workflow/profiles/local

.DEFAULT_GOAL := run
.PHONY: run setup test slow lint format docs clean

run: $(VENV)/.run ## the whole workflow on config.yaml
	@$(SNAKEMAKE) $(ARGS)

setup: $(VENV)/.run ## the virtual environment alone

test: $(VENV)/.test ## all tests but the slow ones
	@$(BIN)/python -m pytest -m "not slow" $(ARGS)

slow: $(VENV)/.bench ## differential tests against other libraries
	@$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(VENV)/.test ## style, types and workflow format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/snakefmt --check Snakefile workflow

format: $(VENV)/.test ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/snakefmt Snakefile workflow

docs: $(VENV)/.run ## the tables that are made from the code
	@set -e; for page in README.md docs/config.md docs/measurements.md; do $(BIN)/python -m pipeline methods --update $$page; done

clean: ## remove the virtual environment, not the results
	rm -rf $(VENV)

# One stamp for each set of extras; a changed pyproject.toml installs anew into the same environment.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Choose one: make PYTHON=python3.12")'
	@echo "Setting up $(VENV) (once; the CUDA build of torch takes 6 GB on disk)"
	@$(PYTHON) -m venv $(VENV) || { echo "python -m venv failed; on Debian and Ubuntu it needs the package python3-venv"; rm -rf $(VENV); exit 1; }
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

$(VENV)/.run: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.run

$(VENV)/.bench: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test,bench,slurm]'
	@touch $@ $(VENV)/.test $(VENV)/.run
