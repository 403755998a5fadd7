# One entry to everything. `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/bin
SCALE ?= tiny
JOBS ?= 2
NB ?=
PYTEST ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
MAKEFLAGS += --no-print-directory

.DEFAULT_GOAL := help
.PHONY: help setup test test-studio reproduce lab notebooks readme export docs hooks lock clean
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: .venv/.package-stamp ## make .venv with the pinned environment and this package (editable)

# Three steps, each with a stamp inside .venv: when nothing has changed, nothing runs.
.venv/.created-stamp:
	@command -v $(PYTHON) >/dev/null || { echo "make setup: '$(PYTHON)' not found. Install Python 3.11 or newer, or say 'make setup PYTHON=/path/to/python3.11'." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"make setup: $(PYTHON) is Python {v[0]}.{v[1]}, and 3.11 or newer is needed. Say: make setup PYTHON=/path/to/python3.11")'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "make setup: $(PYTHON) comes without venv. On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@touch $@

# torch first: asked for by the others without a pin in sight, pip would take whatever build is newest
.venv/.lock-stamp: requirements.lock | .venv/.created-stamp
	@echo "installing the pinned environment into .venv (some minutes on the first run)"
	$(PIP) install --quiet --progress-bar off "$$(grep '^torch==' requirements.lock)"
	$(PIP) install --quiet --progress-bar off -r requirements.lock
	@touch $@

.venv/.package-stamp: .venv/.lock-stamp setup.py settings.ini pyproject.toml
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

test: setup ## run every test, each notebook in a process of its own (JOBS=2, PYTEST="-k loss")
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup $(PYTEST)

test-studio: setup ## label in a real Label Studio with a real browser; installs both (PYTEST="-k form")
	@$(BIN)/python tools/studio.py $(PYTEST)

reproduce: setup ## the main result, from data to table, on a CPU (SCALE=tiny)
	$(BIN)/cpo reproduce --scale $(SCALE)

lab: setup ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab nbs

notebooks: setup ## execute notebooks in place and keep their outputs (SCALE=tiny, NB="20_loss 25_align")
	$(BIN)/python tools/run_notebooks.py --scale $(SCALE) $(NB)

readme: setup ## make README.md from nbs/index.ipynb
	$(BIN)/python tools/readme.py

export: setup ## format and clean the notebooks, and write the modules from them
	$(BIN)/ruff format --quiet nbs tests tools docs setup.py
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean

docs: setup ## build the site into _docs/html and check its links
	$(BIN)/python tools/build_docs.py

hooks: setup ## install git hooks: notebooks merge cell by cell, and stay trusted
	$(BIN)/python tools/hooks.py

lock: setup ## write the versions that stand in .venv into requirements.lock
	$(BIN)/python tools/lock.py

clean: ## remove what builds and tests leave behind (not .venv, .cache or runs)
	rm -rf build dist _proc _docs *.egg-info .pytest_cache
	find . -path ./.venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +
