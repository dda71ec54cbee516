# «make run» and «make test» are all that a newcomer needs; both do their own set-up.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed

SOAK_SECONDS ?= 600

.PHONY: run test transactions interop stress soak lint types docs format clean wheel-check benchmarks \
	sketch-check sanitize

run: $(STAMP)
	$(BIN)/dig-gossip localnet $(ARGS)

test: $(STAMP)
	$(BIN)/python -m twisted.trial -j2 tests

# Thirty nodes, fifty transactions a second for a minute, in memory: minutes.
transactions: $(STAMP)
	DIG_GOSSIP_TRANSACTIONS=1 $(BIN)/python -m twisted.trial tests.service.test_transactions

# Real counterparts that take long to install or to run: chia-blockchain, sslyze.
INTEROP = tests.interop
interop: $(STAMP)
	DIG_GOSSIP_INTEROP=1 $(BIN)/python -m twisted.trial $(INTEROP)

# Compiled and pure sketch arithmetic agree, on 100 000 random sets; about a minute.
sketch-check: $(STAMP)
	$(BIN)/python -m tests.sketch_check

# The same for fewer sets and for garbage, and frames, with the compiled code under ASan and UBSan;
# needs gcc.
sanitize: $(STAMP)
	$(BIN)/python -m tests.sketch_check --sanitize
	$(BIN)/python -m tests.frames_check --sanitize
	$(BIN)/python -m tests.seen_check --sanitize

# 10 000 connections that lead to nothing, against a node with honest peers: three minutes.
stress: $(STAMP)
	$(BIN)/python -m tests.stress.flood $(ARGS)
	$(BIN)/python -m tests.stress.crowd

# Random churn and faults; another seed each time, SEED=N to choose it.
soak: $(STAMP)
	$(BIN)/python -m tests.stress.soak --seconds $(SOAK_SECONDS) $(if $(SEED),--seed $(SEED))

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
	for script in sketch erlay plumtree compact_blocks dandelion memory connect latency throughput broadcast critical_latency relay address_manager as_table eclipse; do $(BIN)/python benchmarks/$$script.py || exit 1; done

clean:
	rm -rf build dist dig_gossip/*/*.so *.egg-info docs/_build _trial_temp* .mypy_cache .ruff_cache

$(STAMP): setup.cfg setup.py pyproject.toml $(wildcard dig_gossip/*/*.c)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "dig_gossip needs Python 3.11 or later; say «make PYTHON=python3.11 …»"; exit 1; }
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# The claims of docs/results: ten seeds of each scenario, many hours. What is measured is kept in
# docs/measured. KEEP=--keep goes on with what is there, made by the same program.
RESULTS = small-50 recurring-1k uniform-1k recurring-10k uniform-10k heal-10 heal-30 heal-50
SEEDS ?= 1-10
.PHONY: results
results: $(STAMP)
	for name in $(RESULTS); do \
		$(BIN)/dig-gossip lab run $$name --seeds $(SEEDS) --out docs/measured/$$name --pack $(KEEP) \
			|| exit 1; done
	$(BIN)/python -c "import sys; from dig_gossip.lab.claims import write_results_docs as w; \
		w(sys.argv[1:], 'docs')" $(addprefix docs/measured/,$(RESULTS))

# Kill a thousand processes while they save an address book.
.PHONY: kill-saves
kill-saves: $(STAMP)
	$(BIN)/python -m tests.discovery.kill_saves 1000
