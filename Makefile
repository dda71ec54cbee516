# «make run» and «make test» are all that a newcomer needs; both do their own set-up.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed

.PHONY: run test interop lint types docs format clean wheel-check benchmarks

run: $(STAMP)
	$(BIN)/dig-gossip localnet $(ARGS)

test: $(STAMP)
	$(BIN)/python -m twisted.trial -j2 tests

# Real counterparts that take long to install or to run: chia-blockchain, sslyze.
interop: $(STAMP)
	DIG_GOSSIP_INTEROP=1 $(BIN)/python -m twisted.trial tests.interop

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy dig_gossip tests examples docs/*_reference.py docs/divergences.py docs/modules.py \
		docs/traceability.py

docs: $(STAMP)
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel-check: $(STAMP)
	$(BIN)/python -m tests.wheel_check

benchmarks: $(STAMP)
	for script in plumtree memory connect latency throughput; do $(BIN)/python benchmarks/$$script.py || exit 1; done

clean:
	rm -rf build dist *.egg-info docs/_build _trial_temp* .mypy_cache .ruff_cache

$(STAMP): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "dig_gossip needs Python 3.11 or later; say «make PYTHON=python3.11 …»"; exit 1; }
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
