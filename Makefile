# One command each; every target sets itself up first.
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.ready
JOBS   ?= 2

.PHONY: setup study test check bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(PY) || python3 -m venv $(VENV) || { echo "make setup needs Python >= 3.11 with venv (Debian: apt install python3-venv)"; exit 1; }
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Wingspan needs Python >= 3.11; $$($(PY) --version) found. Remove $(VENV) and put a newer python3 first on PATH."; exit 1; }
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt "setuptools>=77" wheel
	$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

study: setup
	$(VENV)/bin/wingspan study scenes

test: setup
	$(PY) -m pytest -n $(JOBS) --dist loadfile tests

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PY) -m pytest tests/test_layers.py

bench: setup
	$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation -c constraints.txt -e '.[bench]'
	$(PY) benchmarks/augment.py --json
	$(PY) benchmarks/pretrain.py --json
	$(PY) benchmarks/probe.py --json
	$(PY) benchmarks/knn.py --json
	$(PY) benchmarks/features.py --json
	$(PY) benchmarks/loader.py --json --only rate pack
	$(PY) benchmarks/rcdm.py --json --only step samples
	$(PY) benchmarks/wide_block.py --json
	$(PY) benchmarks/losses.py --json --only nt_xent-4096x256

clean:
	rm -rf $(VENV) build *.egg-info
