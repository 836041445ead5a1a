# make demo     train the network of Nanda et al. until it groks, take it apart, write a report
# make test     the fast tests;  make test-tl3: the same models under TransformerLens 3.9
PYTHON ?= python3
VENV := .venv
VENV3 := .venv-tl3
BIN := $(VENV)/bin
INSTALL = -m pip install --disable-pip-version-check -q -c constraints.txt
SOURCES := pyproject.toml constraints.txt
# One process a core, each with one thread; a file's tests stay together, and share what they prepare.
TOGETHER = -n auto --dist loadfile
# What a stranger meets: without the type checks of our own tests, which would answer in the place of our errors.
STRANGERS = -o addopts="-q --strict-markers" tests/strangers

.PHONY: demo test test-tl3 lint bench studies golden notebooks clean

$(VENV)/.installed: $(SOURCES)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expected Python 3.11 or newer, got " + sys.version.split()[0] + "; set PYTHON=/path/to/it")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) torch
	$(BIN)/python $(INSTALL) "transformer-lens==4.3.0" -e ".[static,notebook,cluster,dev]"
	touch $@

$(VENV3)/.installed: $(SOURCES)
	test -x $(VENV3)/bin/python || $(PYTHON) -m venv $(VENV3)
	$(VENV3)/bin/python $(INSTALL) torch
	$(VENV3)/bin/python $(INSTALL) "transformer-lens==3.9.0" -e ".[dev]"
	touch $@

.venv: $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/mechinterp study modular-addition --fast --out runs/demo

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TOGETHER)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TOGETHER) $(STRANGERS)

test-tl3: $(VENV3)/.installed
	OMP_NUM_THREADS=1 $(VENV3)/bin/python -m pytest $(TOGETHER) tests/models tests/hooks tests/analysis tests/tl3

lint: $(VENV)/.installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

studies: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m benchmarks.results

notebooks: $(VENV)/.installed
	PLOTLY_RENDERER=png $(BIN)/jupyter execute --inplace notebooks/*.ipynb

golden: $(VENV3)/.installed
	$(VENV3)/bin/python tests/golden/make_golden.py

clean:
	rm -rf $(VENV) $(VENV3) runs .pytest_cache .ruff_cache
