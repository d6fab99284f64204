# Needs Python 3.11 or later and make. Environments are made once and again when pyproject.toml changes.
PYTHON ?= python3
CONSTRAINTS ?= # a file of pinned versions, as CI uses
ARGS ?=        # for pytest, or for bench/experiments

INSTALL = -m pip install --quiet $(if $(strip $(CONSTRAINTS)),-c $(strip $(CONSTRAINTS)))
FROM = pyproject.toml $(strip $(CONSTRAINTS))
BIN = .venv/bin
ADAPTERS = tests/adapters ttcore/adapters $(shell grep -lE 'torch|jax|mark\.adapters' tests/test_*.py)
EXPERIMENTS = mnist "mnist --dense" hashednet t3f compress "cifar --minutes 1"

.PHONY: demo test lint bench bench-peers experiments docs dist test-wheel test-adapters clean distclean
.NOTPARALLEL:

demo: .venv/.demo
	$(BIN)/ttcore demo

test: .venv/.test
	$(BIN)/pytest $(ARGS)

lint: .venv/.test .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict
	$(BIN)/lint-imports

bench: .venv/.bench
	$(BIN)/pytest bench -o python_files='bench_*.py' -o python_functions='bench_*' --benchmark-only -m "not full" $(ARGS)

bench-peers: .venv-peers/.peers
	.venv-peers/bin/python bench/peers --page docs/peers.md $(ARGS)

experiments: .venv-experiments/.made $(FROM)
	.venv-experiments/bin/python $(INSTALL) -e . --group experiments
	set -e; for one in $(EXPERIMENTS); do .venv-experiments/bin/python bench/experiments $$one $(ARGS); done

docs: .venv/.test .venv/.docs
	$(BIN)/sphinx-build -W --keep-going --quiet docs docs/_build/html
	$(BIN)/pytest tests/test_docs.py

dist: .venv/.dev
	rm -rf dist
	$(BIN)/python -m build

test-wheel: dist .venv-wheel/.made $(FROM)
	.venv-wheel/bin/python $(INSTALL) "$$(echo dist/*.whl)[demo,io]" --group test
	.venv-wheel/bin/python $(INSTALL) --force-reinstall --no-deps dist/*.whl
	cd tests && ../.venv-wheel/bin/python -c "import ttcore; assert 'site-packages' in ttcore.__file__"
	.venv-wheel/bin/pytest tests --pyargs ttcore $(ARGS)

# What needs a framework, and the kernels under an older Numba. Nothing may be skipped because a module is missing.
test-adapters: .venv-adapters/.test
	TTCORE_NOTHING_MISSING=1 .venv-adapters/bin/pytest -m adapters $(ADAPTERS) $(ARGS)

clean:
	rm -rf build dist docs/_build demo-out .benchmarks .hypothesis .*_cache
	find ttcore tests docs -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-wheel .venv-adapters .venv-peers .venv-experiments

%/.made:
	$(PYTHON) -c "import sys; sys.exit('ttcore needs Python 3.11 or later: make PYTHON=...' if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install --quiet --upgrade pip
	touch $@

.venv/.demo: .venv/.made $(FROM)
	$(BIN)/python $(INSTALL) -e ".[demo]"
	touch $@

.venv/.test .venv/.dev .venv/.docs .venv/.bench: .venv/.%: .venv/.made $(FROM)
	$(BIN)/python $(INSTALL) -e ".[demo,io]" --group $*
	touch $@

.venv-adapters/.test: .venv-adapters/.made $(FROM)
	.venv-adapters/bin/python $(INSTALL) -e ".[demo,io,jax]" torch==2.13.0 --group test --group adapters
	touch $@

.venv-peers/.peers: .venv-peers/.made bench/peers/requirements.txt $(FROM)
	.venv-peers/bin/python $(INSTALL) -r bench/peers/requirements.txt -e .
	touch $@
