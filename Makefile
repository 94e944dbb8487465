# Recipes for working on the package. `make install` makes .venv; HNET_NTV2_PYTHON or HNET_NTV2_VENV name another one.
PYTHON := $(or $(HNET_NTV2_PYTHON),$(or $(HNET_NTV2_VENV),.venv)/bin/python)
BIN := $(dir $(PYTHON))
export OMP_WAIT_POLICY = PASSIVE

.PHONY: install demo test test-fast check docs bench bench-use bench-tokenizers bench-learning

install: ## make the environment with the package and its test tools
	bash -c 'set -euo pipefail; . scripts/_environment.sh; hnet_prepare dev'

demo: ## train the tiny model on the bundled human DNA
	./scripts/run_pretrain_hnet_ntv2.sh --demo

test: ## every test but those for a GPU or a network, as continuous integration runs them
	./scripts/test.sh

test-fast: install ## the tests that take seconds
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -m "not slow and not gpu and not network" -n 2

check: install ## format, lint, types, layers, then the fast tests
	$(BIN)ruff format --check .
	$(BIN)ruff check .
	$(BIN)pyright --pythonpath $(PYTHON)
	$(BIN)lint-imports --no-cache --no-logo
	$(MAKE) test-fast

docs: install ## the documentation site, without warnings, in docs/_build/html
	$(PYTHON) -m sphinx -b html -q -W --keep-going docs docs/_build/html

bench: install ## speed of the default and the fast model beside NTv2-500M
	$(PYTHON) -m hnet_ntv2.cli.main bench --config configs/model/hnet_ntv2.yaml --config configs/model/hnet_ntv2_fast.yaml

bench-use: install ## speed and memory of embed beside one sequence at a time and the 6-mer source; TASK=FOLDER of GUE: a probe too
	OMP_NUM_THREADS=1 $(PYTHON) -m benchmarks.use --output outputs/use.json $(if $(TASK),--task $(TASK))

# SIZE is minutes, hour, wide, long or gpu; DNA="--fasta F.fa.gz --intervals F.bed" (repeatable) replaces the bundled piece;
# KEPT=FOLDER of an earlier report: its source and runs are taken over instead of being done again.
SIZE ?= minutes
DNA ?=
KEPT ?=
WORK ?= outputs/learning/$(SIZE)
RESULTS ?= $(WORK)/report
BASELINE ?= random
CORE = --core trunk trunk_embedding graft matching plain

bench-learning: install ## does a start from a 6-mer model learn faster? goes on where it was interrupted
	$(PYTHON) -m benchmarks.learning $(WORK) --size $(SIZE) $(DNA) $(if $(KEPT),--kept $(KEPT))
	$(PYTHON) -m benchmarks.learning.report $(WORK) --output $(RESULTS) --reference anchors_kept --baseline $(BASELINE) $(CORE)

# SIZE is minutes, hour, day or gpu; RUNS is the folder of the finished trials.
RUNS ?= outputs/tokenizers/$(SIZE)

bench-tokenizers: install ## do learned chunks find boundaries that exist? goes on where it was interrupted
	$(PYTHON) -m benchmarks.tokenizers $(RUNS) --size $(SIZE)
	$(PYTHON) -m benchmarks.tokenizers.report $(RUNS) --output $(RUNS)/tokenizers.md
