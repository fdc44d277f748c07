# Every target sets up what it needs: a virtual environment in .venv, made once.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# One torch thread a process: the tests run in two processes.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: demo test lint types contracts check clean

demo: $(READY)
	$(BIN)/python examples/quickstart.py

test: $(READY)
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist worksteal -q

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

contracts: $(READY)
	$(BIN)/lint-imports

check: lint types contracts test

clean:
	rm -rf .venv

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(READY)
