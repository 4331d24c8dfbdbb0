# Every target sets itself up: a virtual environment, the pinned packages, this package.
# PYTHON chooses the interpreter: make test PYTHON=python3.12
PYTHON ?= python3
# Options for pytest: make test PYTEST_ARGS="-x tests/compile"
PYTEST_ARGS ?=
# Processes of tests at a time; 0 is none beside pytest's own.
JOBS ?= auto
# Two processes whose idle threads spin take each other's cores.
export OMP_WAIT_POLICY ?= passive
VENV := .venv
READY := $(VENV)/.ready

.PHONY: help setup demo test test-full fuzz lint docs bench peers clean

help:
	@echo "make demo       prune, compile, check and time C3D on this machine"
	@echo "make test       the tests; make test-full adds the full-size models"
	@echo "make fuzz       random graphs, files, artifacts, kills and connections, for ten minutes"
	@echo "make docs       the documentation as pages, in build/site"
	@echo "make peers      other engines, for scripts/peers/compare_peers.py"
	@echo "make lint       ruff and mypy; make bench: the demo's table for all three models; make clean: remove what was built, .venv apart"

setup: $(READY)

# One stamp: a second run installs nothing until the dependencies change.
$(READY): requirements.txt setup.py
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON) here: install Python 3.10 to 3.13, or name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 13) else "Python 3.10 to 3.13 is needed, $(PYTHON) is %d.%d: name another, e.g. make PYTHON=python3.12" % v)'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module: install it (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	@command -v gcc >/dev/null || { echo "No gcc here: install it (Debian, Ubuntu: apt install gcc); TVM links the compiled model with it"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -r requirements.txt
	$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY)
	$(VENV)/bin/python scripts/demo.py

test: $(READY)
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist loadgroup $(PYTEST_ARGS)

test-full: $(READY)
	$(VENV)/bin/python -m pytest -m "full or not full" $(PYTEST_ARGS)

# Each run goes on where the last one stopped; docs/reliability.md says how to repeat a finding.
fuzz: $(READY)
	$(VENV)/bin/python -m scripts.fuzz --budget 600 --save build/fuzz/tallies.json

# The documentation as pages, in build/site; fails where a link leads nowhere.
docs: $(READY)
	$(VENV)/bin/python -m sphinx -W --keep-going -q docs build/site

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(READY)
	for model in c3d r2plus1d s3d; do $(VENV)/bin/python scripts/demo.py --model $$model --out build/bench/$$model || exit 1; done

# OpenVINO and MNN, to compare with, and the runtimes alone, to see what memory they take; then:
# .venv/bin/python scripts/peers/compare_peers.py
peers: $(READY) .venv-peers/.ready .venv-plain/.ready

.venv-%/.ready: requirements-%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet -r $<
	@touch $@

clean:
	rm -rf build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
