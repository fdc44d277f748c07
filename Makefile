# Every target sets up what it needs: a virtual environment in .venv, made once.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# One torch thread a process: the tests run in two processes.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: demo test test-bounds test-many test-nojit lint types contracts check fuzz clean

demo: $(READY)
	$(BIN)/python examples/quickstart.py

test: $(READY)
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist worksteal -q

# The runtime with every index of the kernels checked, and with scipy in their place;
# less the tests of the file and of the GPU, which are the same in any mode. Code that
# checks is kept apart: numba does not tell it from code that does not.
RUNTIME := -m pytest -n 2 --dist worksteal -q tests/runtime \
    --ignore=tests/runtime/file --ignore=tests/runtime/cuda

test-bounds: $(READY)
	NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$(CURDIR)/build/numba-bounds $(ONE_THREAD) \
	    $(BIN)/python $(RUNTIME) --ignore-glob=*/test_modes.py

test-nojit: $(READY)
	NUMBA_DISABLE_JIT=1 $(ONE_THREAD) $(BIN)/python $(RUNTIME)

# Ten thousand random nets against torch and scipy; `make test` tries two thousand.
test-many: $(READY)
	PARITY_NETS=10000 $(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist worksteal -q \
	    tests/export/test_parity.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

contracts: $(READY)
	$(BIN)/lint-imports

check: lint types contracts test

# One minute of the reader of model files; what it finds is kept in build/fuzz.
FUZZ_SECONDS ?= 60
fuzz: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[fuzz]"
	mkdir -p build/fuzz/corpus
	$(ONE_THREAD) $(BIN)/python -m fuzz.loader build/fuzz/corpus tests/runtime/file/golden \
	    -max_total_time=$(FUZZ_SECONDS) -max_len=16384 -timeout=10 -rss_limit_mb=2048 \
	    -print_final_stats=1 -artifact_prefix=build/fuzz/

clean:
	rm -rf .venv

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(READY)
