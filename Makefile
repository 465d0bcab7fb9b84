# make venv | run | test | check | bench | lock        (see README.md)
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find daemon tests/traces -type f -not -path '*/__pycache__/*' -not -path '*.egg-info/*' 2>/dev/null) setup.cfg setup.py
TESTS ?= tests

.PHONY: venv run test check unit bench fuzz record faults faults-cluster lock format diagram
.DELETE_ON_ERROR:

# pip is told nothing about where packages come from: the machine's own pip settings decide.
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("crmbridge needs Python 3.11 or newer, and %s is %s: set PYTHON=" % (sys.executable, sys.version.split()[0]) if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "make: could not make $(VENV); on Debian: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.run: requirements/run.txt | $(BIN)/python
	$(PIP) install --require-hashes -r requirements/run.txt
	touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.run
	$(PIP) install --require-hashes -r requirements/dev.txt
	touch $@

# Not an editable install: tests and `make run` use what a package would hold.
$(VENV)/.package: $(SOURCES) $(VENV)/.run
	rm -rf build
	$(PIP) install --no-deps --no-build-isolation --force-reinstall .
	rm -rf build
	touch $@

venv: $(VENV)/.dev $(VENV)/.package

run: $(VENV)/.package
	@$(BIN)/crmbridge $(if $(CONFIG),run --config $(CONFIG),demo) $(ARGS)

test: venv
	@BIN=$(BIN) REQUIRE=$(REQUIRE) TESTS="$(TESTS)" WORKERS=$(WORKERS) tests/run $(ARGS)

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/unit

unit: venv
	$(BIN)/pytest -q tests/unit $(ARGS)

format:
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# How fast the bridge is, and the call list of a made-up PBX: docs/performance.md. Ten minutes; millions of rows take
# longer: make bench ARGS='calls --rows 1000000 10000000'
bench: venv
	$(BIN)/python -m tests.bench $(ARGS)

# A million damaged frames through the frame reader, a minute or two: make fuzz ARGS='--frames 20000 --seed 7'
fuzz: venv
	$(BIN)/python -m tests.bench.frames $(ARGS)

# Records calls of the lab's live Asterisks into tests/traces and tests/records (root): make record ARGS='--version 22 did_answered'
record: venv
	$(BIN)/python -m tests.asterisk.record $(ARGS)

# Every fault that a PBX's host meets, done to a live bridge; a table for each (root): make faults ARGS='--only ami --seed 3'
faults: venv
	$(BIN)/python -m tests.asterisk.faults $(ARGS)

# A whole site under calls (two bridges, two PBXes, three database nodes, each a machine of its own), and whatever can
# happen to it; a table (root, a quarter of an hour): make faults-cluster ARGS='--faults 10 --seed 3'
faults-cluster: venv
	$(BIN)/python -m tests.asterisk.cluster $(ARGS)

# Draws docs/tracker.md's diagram anew from the table in calls/phases.py.
diagram: venv
	$(BIN)/python -c 'from pathlib import Path; from crmbridge.calls.phases import drawn; p = Path("docs/tracker.md"); p.write_text(drawn(p.read_text()))'

# Locks for Python 3.11 and newer; needs `uv` on the PATH.
lock:
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-emit-index-url --no-header --no-annotate setup.cfg requirements/build.in -o requirements/run.txt
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-emit-index-url --no-header --no-annotate setup.cfg requirements/build.in --extra test --extra dev -c requirements/run.txt -o requirements/dev.txt
