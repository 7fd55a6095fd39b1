# segsweep: `make` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV   := .venv
PY     := $(VENV)/bin/python
PYTHON ?= python3
STAMP  := $(VENV)/.installed
EXTRAS ?= dev,stardist,aws
CLUSTER ?= cluster.yaml
# Many containers set this. Every worker and command would then compile torch, Ray and TensorFlow
# again, and take 18 s of a core to start instead of 9 s.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-quick test-slow test-gpu test-hosts mutate lint format bench cluster-up cluster-down clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

# uv installs in parallel and links instead of copying; pip alone takes minutes for the same result.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "segsweep needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Run make PYTHON=python3.11 ..."; exit 2; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "installing segsweep and its pinned dependencies into $(VENV) ..."
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null
	@$(PY) -m pip install -q --disable-pip-version-check "uv>=0.5"
	@$(VENV)/bin/uv pip install -q --python $(PY) -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@

setup: $(STAMP)  ## create .venv with the pinned dependencies

demo: $(STAMP)  ## generate data, train all architectures on it, write the report
	@$(PY) -m sweep.run demo
	@$(PY) -m analysis.run runs/demo

lint: $(STAMP)  ## ruff check, ruff format --check, mypy
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

format: $(STAMP)  ## fix what ruff can fix, then format
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

# Two processes, because the tests of sweeps mostly wait. Tests of one file share data, so they run in
# one process. One thread each: several threads per process would compete for two cores and make both
# processes many times slower.
test: lint  ## lint, then all tests that are not marked slow or gpu
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -m "not slow and not gpu" -n 2 --dist loadfile --no-loadscope-reorder

test-quick: $(STAMP)  ## the tests in tests/quick.txt, without Ray and TensorFlow, in under 90 seconds
	@SEGSWEEP_QUICK=1 OMP_NUM_THREADS=1 $(PY) -m pytest -q -m "not slow and not gpu" -n 2 --dist loadfile @tests/quick.txt

test-slow: $(STAMP)  ## run the tests marked slow or gpu
	@$(PY) -m pytest -q -m "slow or gpu"

test-gpu: $(STAMP)  ## check an NVIDIA GPU in under ten minutes (docs/gpu.md)
	@$(PY) benchmarks/gpu_check.py

test-hosts: $(STAMP)  ## start a cluster on two hosts made of namespaces, run a sweep on it (needs root; docs/testing.md)
	@SEGSWEEP_HOSTS=1 $(PY) -m pytest -q tests/sweep/cluster/test_two_hosts.py

mutate: $(STAMP)  ## plant small bugs (MODULES="trainables.metrics ..."), count those that the tests find (docs/testing.md)
	@nice $(PY) tests/mutate.py $(MODULES)

bench: $(STAMP)  ## run the benchmarks; they print ratios, not times
	@for f in benchmarks/bench_*.py; do echo "== $$f"; $(PY) $$f || exit 1; done

cluster-up: $(STAMP)  ## start the cluster of cluster.yaml (CLUSTER=deploy/local.yaml: your own machines)
	@$(PY) -m sweep.cluster.launch up "$(CLUSTER)"

cluster-down: $(STAMP)  ## stop the cluster (CLUSTER=... as for cluster-up)
	@$(PY) -m sweep.cluster.launch down "$(CLUSTER)"

clean:  ## remove .venv and caches, but never runs/ or data/
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis mutants
	find analysis trainables -name '*.nb[ci]' -delete
