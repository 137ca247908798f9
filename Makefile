# Every target sets up what it needs: a virtual environment with uv inside, the locked packages, audioml itself (editable).
# Stamp files make that a matter of milliseconds when nothing changed. Needs make, git and Python 3.11; nothing else.
SHELL := bash
.DEFAULT_GOAL := help

VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/.ready
UV    := $(BIN)/uv pip install --quiet --python $(BIN)/python
RUN   ?= 70_drums_train
OUT   ?= runs/drums
ARGS  ?=

export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export UV_HTTP_TIMEOUT ?= 300
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME

.PHONY: help setup run test lab export readme docs bench lock clean

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## the virtual environment; every other target does this by itself

$(VENV)/.locked: requirements.txt
	@if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
	  for p in python3.11 python3; do \
	    if $$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then found=$$p; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then echo 'make: Python 3.11 was not found; install it, so that `python3.11` runs' >&2; exit 2; fi; \
	  echo "setting up $(VENV), about a minute"; $$found -m venv --clear $(VENV); \
	fi
	@$(BIN)/python -m pip install --quiet "$$(grep '^uv==' requirements.txt)"
	@$(UV) -r requirements.txt
	@touch $@

$(READY): setup.py settings.ini $(VENV)/.locked
	@$(UV) --no-deps --no-build-isolation --editable .
	@touch $@

run: $(READY) ## train a drum transcriber and report on it (RUN=notebook OUT=folder ARGS="-p n_epoch=2")
	audioml runs start $(RUN) --out $(OUT) -p overwrite=true $(ARGS)

test: $(READY) ## all checks: notebooks clean, modules in sync, every notebook, tests/, the wheel
	@if [ -n "$$AUDIOML_DATA" ]; then echo "real recordings: $$AUDIOML_DATA"; \
	 else echo 'AUDIOML_DATA is not set: tests on real recordings are skipped'; fi
	pytest -q tests/test_sync.py
	OMP_NUM_THREADS=1 nbdev_test --n_workers 2 --timing
	OMP_NUM_THREADS=1 pytest --ignore=tests/test_sync.py -m 'not alone' --numprocesses 2 --dist loadfile
	pytest --ignore=tests/test_sync.py -m alone

lab: $(READY) ## JupyterLab, with the launcher: pick a system, run it, look
	jupyter lab nbs --LabApp.default_url=/lab/tree/lab.ipynb $(ARGS)

export: $(READY) ## write audioml/ and README.md from the notebooks, and clean these
	nbdev_clean
	nbdev_export
	python tools/readme.py

readme: $(READY) ## render README.md from nbs/index.ipynb
	python tools/readme.py

docs: $(READY) ## the documentation site in _docs/, searched for broken links (with Quarto where it is installed)
	OMP_NUM_THREADS=1 python tools/docsite.py $(ARGS)

bench: $(READY) ## speed and memory against their targets, and against the libraries people use today
	@$(UV) --no-build-isolation -e '.[bench]'
	@failed=; for b in benchmarks/bench_*.py; do echo "$$b"; python $$b $(ARGS) || failed="$$failed $$b"; done; \
	 if [ -n "$$failed" ]; then echo "missed a target:$$failed" >&2; exit 1; fi

lock: $(READY) ## pin requirements.txt anew from the bounds in settings.ini
	uv pip compile setup.py --extra dev --universal --python-version 3.11 --upgrade \
	  --no-header --no-annotate --quiet --output-file requirements.txt

clean: ## remove what was made: .venv, caches, builds (runs/ stays)
	rm -rf $(VENV) build dist *.egg-info _docs _proc .pytest_cache .hypothesis nbs/nbdev.yml nbs/sidebar.yml
	find . -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
