# The two commands of the README are `make quickstart` and `make test`; each sets up .venv first where it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup quickstart test quality fuzz audit docs notebooks clean

setup: $(STAMP)

# torch and torchvision are a pair: one without the other cannot load the processors
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs,notebooks,app,serve,supervision,ray]'
	touch $@

quickstart: setup
	rm -rf runs/quickstart
	$(BIN)/boxtune quickstart --output-dir runs/quickstart

# processes that share the tests; 0 has them all in one
WORKERS ?= 2
test: setup
	$(BIN)/python -m pytest --numprocesses $(WORKERS)

quality: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src/boxtune
	$(BIN)/mypy --strict src/boxtune/detections.py src/boxtune/errors.py src/boxtune/grounding src/boxtune/config
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive src/boxtune

# every reader and the decoder, MINUTES in all; what is found lies in tests/fuzz/found
MINUTES ?= 10
fuzz: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[security]'
	cd tests && ../$(BIN)/python -W ignore -m fuzz.run $(MINUTES)

# known faults of the pinned versions; needs the network, and ends with 3 (make: 2) where it is not there
audit: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[security]'
	$(BIN)/python .ci/audit.py

# every warning is an error: a broken link, a missing anchor, a page outside of the navigation
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# executed copies, with their pictures, come to notebooks/runs; the notebooks stay without outputs
notebooks: setup
	mkdir -p notebooks/runs
	printf '%s\n' notebooks/*.ipynb | OMP_NUM_THREADS=1 xargs -n 1 -P 2 $(BIN)/jupyter-execute --output=runs/{notebook_name}

clean:
	rm -rf $(VENV) runs notebooks/runs site .pytest_cache .mypy_cache .ruff_cache .hypothesis tests/fuzz/found
