# crossgru: encode video once, train heads many times. `make help` lists the targets.

PYTHON  ?= python3
VENV    ?= .venv
DATASET ?= demo
TASK    ?= violence
ROOT    ?=
CACHE   ?=
VIDEO   ?=
RUN     ?=
OUT     ?=
ARGS    ?=

PY    := $(VENV)/bin/python
# A process of tests per core, each with one thread; the tests of a file stay together (tests/conftest.py).
TESTS := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder
READY := $(VENV)/.ready

# Names and paths reach the recipes as the environment, word for word: $(value ...) keeps make from expanding a "$(...)"
# in a file name, and "$$DATASET" keeps the shell from reading quotes and semicolons in it. ARGS alone is shell text.
override DATASET := $(value DATASET)
override TASK    := $(value TASK)
override ROOT    := $(value ROOT)
override CACHE   := $(value CACHE)
override VIDEO   := $(value VIDEO)
override RUN     := $(value RUN)
override OUT     := $(value OUT)
PRESET ?= $(if $(filter demo,$(DATASET)),mini,base)
override PRESET  := $(if $(findstring command,$(origin PRESET))$(findstring environment,$(origin PRESET)),$(value PRESET),$(PRESET))
export DATASET TASK ROOT CACHE VIDEO RUN OUT PRESET
where := $${ROOT:+--root "$$ROOT"} $${CACHE:+--cache "$$CACHE"}

.PHONY: help setup demo miniature plan extract train predict report status export test quick soak check bench clean
.DEFAULT_GOAL := help

help: ## show this list
	@echo "crossgru: frozen video encoders once, GRU + cross-attention heads in minutes"; echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo "  Options: DATASET=demo|dvd|affwild2|PATH.toml|PATH.csv|FOLDER   TASK=violence|va|expr|au|COLUMN   PRESET=mini|tiny|tiny-minigpt|base|large"
	@echo "           ROOT=folder of the data   CACHE=path or URL   ARGS='further options, see python -m extract run --help'"

setup: $(READY) ## create .venv and install everything (versions from constraints.txt)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "crossgru needs Python 3.11 or newer, '$(PYTHON)' is $$($(PYTHON) --version 2>&1); try make PYTHON=python3.12 ..."; exit 2; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY) ## render the demo videos, extract, train both tasks, write reports (no GPU, no download)
	$(PY) -m extract run demo --preset mini
	$(PY) -m train cv demo --task violence
	$(PY) -m train cv demo --task va

miniature: $(READY) ## train the miniature encoders from nothing (40 minutes) and print what they mean
	$(PY) -m extract.miniature.make
	$(PY) -m extract.miniature.check

plan: $(READY) ## what extracting DATASET would cost: frames, windows, bytes, hours
	$(PY) -m extract plan --preset "$$PRESET" $(where) $(ARGS) -- "$$DATASET"

extract: $(READY) ## run the encoders over DATASET once; resumes where it stopped
	$(PY) -m extract run --preset "$$PRESET" $(where) $(ARGS) -- "$$DATASET"

train: $(READY) ## cross-validate a head on the cache of DATASET for TASK
	$(PY) -m train cv --task "$$TASK" $(where) $(ARGS) -- "$$DATASET"

predict: $(READY) ## score VIDEO=clip.mp4 with the latest run of TASK trained on DATASET
	@test -n "$$VIDEO" || { echo "usage: make predict VIDEO=clip.mp4 [DATASET=demo] [TASK=violence]"; exit 2; }
	$(PY) -m extract run --like "$${CACHE:-$$DATASET}" -- "$$VIDEO"
	$(PY) -m train predict --trained-on "$$DATASET" --task "$$TASK" $(ARGS) -- "$$VIDEO"

report: $(READY) ## write report.html of the latest run again (RUN=runs/... for another)
	$(PY) -m train report $${RUN:+--run "$$RUN"}

status: $(READY) ## what is extracted of DATASET, what failed and why
	$(PY) -m extract status $(where) $(ARGS) -- "$$DATASET"

test: $(READY) ## run the test suite
	$(TESTS) $(ARGS)

quick: $(READY) ## run the tests of what takes little time
	$(TESTS) -m 'not soak and not slow' $(ARGS)

export: $(READY) ## copy the features of DATASET to OUT=features.h5 (ARGS='--format parquet' for a folder of tables)
	@test -n "$$OUT" || { echo "usage: make export OUT=features.h5 [DATASET=demo]"; exit 2; }
	$(PY) -m extract export --output "$$OUT" $(where) $(ARGS) -- "$$DATASET"

soak: $(READY) ## run the long tests: kills, fuzzing (SOAK_SEED=n repeats a run, SOAK_CASES=n shortens it)
	$(TESTS) -m soak $(ARGS)

check: $(READY) ## lint, types and tests
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy
	$(TESTS)

bench: $(READY) ## run the benchmarks; each prints one table
	@for script in benchmarks/*.py; do echo "== $$script"; $(PY) $$script || exit 1; done

clean: ## remove caches of tools (keeps .venv, data/, caches/ and runs/)
	rm -rf .pytest_cache .ruff_cache .mypy_cache build *.egg-info
	find extract train shared tests benchmarks -name __pycache__ -type d -exec rm -rf {} +
