# make demo, make test, make docs: from nothing; a second call installs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow reliability properties check docs clean

demo: $(VENV)/installed
	$(BIN)/pytorch-dl demo

test: check
	$(BIN)/python -m pytest -m "not slow" -n 2

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m slow

# All cases, or those of one group: make reliability GROUP=D
reliability: $(VENV)/installed-dev
	PYTORCH_DL_RELIABILITY=$(CURDIR)/benchmark/results/reliability.json \
	    $(BIN)/python -m pytest tests/reliability -k "test_$(GROUP)" -n 2 --dist worksteal
	$(BIN)/python scripts/reliability_table.py

# The properties, on thousands of examples each; make test tries some fifty.
properties: $(VENV)/installed-dev
	PYTORCH_DL_RELIABILITY=yes $(BIN)/python -m pytest tests/properties

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The site, into site/; a warning is an error.
docs: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# torch comes first and alone: whatever depends on it then finds the pinned build in place.
$(VENV)/torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	touch $@

$(VENV)/installed: $(VENV)/torch constraints.txt pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) site
