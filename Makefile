# make demo    from nothing to a compressed file and a page about it
# make test    linters, types, layers and the test suite
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test lint check-slow bench clean

demo: $(READY)
	$(BIN)/tersenet compress recipes/demo/digits.yaml --out runs/demo

test: $(READY) lint
	$(BIN)/python -m pytest -n auto

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Trains on the real data sets; minutes to an hour. DATA is the folder that holds mnist/.
check-slow: $(READY)
	TERSENET_DATA=$(DATA) $(BIN)/python -m pytest -m slow

bench: demo
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tersenet needs Python 3.11 or newer; make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) runs build dist
