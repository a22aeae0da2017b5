# Two commands: `make run` and `make test`. Each sets up .venv first, which takes no time when it is done.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
DEV := .venv/ready-dev
TF := .venv-tensorflow
UV := $(BIN)/python scripts/uv.py
# Lock files are for every machine: they name neither the wheels that lie on this one nor what it is kept from.
LOCK = UV_FIND_LINKS= UV_CONSTRAINT= $(UV) pip compile --config-file lock.toml --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url
export UV_OVERRIDE := requirements-overrides.txt
# The build of torch: cpu, cu130, auto, … (uv's torch backends). The choice stays until there is another.
TORCH ?= $(patsubst .venv/torch-%,%,$(wildcard .venv/torch-*))
CHOSEN := $(TORCH:%=.venv/torch-%)
# Packages are compiled when they are first imported, and what is compiled has to be kept: many containers forbid it.
unexport PYTHONDONTWRITEBYTECODE
TWO := --numprocesses 2 --dist worksteal

.PHONY: run test test-fast test-nightly test-faults fuzz test-tensorflow tensorflow check format docs study docs-studies setup lock audit sbom licences bench-first-run bench-overhead bench-start bench-train bench-llm bench-plan bench-predict bench-data bench-history bench-history-server results docs-figures clean help

run: $(READY) ## set up, then run the pipeline: data, pretraining, finetuning, evaluation
	@$(BIN)/pretune run

test: $(DEV) ## set up, then pass all tests
	@$(BIN)/python scripts/budget.py --minutes 12 $(BIN)/python -m pytest $(TWO) --durations 20

test-fast: $(DEV) ## the tests that take seconds
	@$(BIN)/python -m pytest $(TWO) -m "not slow and not nightly"

test-nightly: $(DEV) ## all combinations of what the tests try pair by pair
	@$(BIN)/python -m pytest $(TWO) -m nightly

test-faults: $(DEV) ## every call of a stage that can fail fails in turn; docs/reliability.md gets the table; an hour
	@$(BIN)/python -m tests.faults --write

fuzz: $(DEV) ## ten minutes of damaged files for every reader (scripts/fuzz.py)
	@$(BIN)/python scripts/fuzz.py --minutes 10

test-tensorflow: $(DEV) $(TF)/ready ## set up .venv-tensorflow too, then test the way into TensorFlow
	@$(BIN)/python -m pytest tests/to_tensorflow

tensorflow: $(TF)/ready ## set up .venv-tensorflow, in which an exported model becomes a SavedModel

$(TF)/ready: to_tensorflow/requirements.txt
	@echo "setting up $(TF) from $< (a minute or two, once)"
	@test -x $(TF)/bin/pip || $(PYTHON) -m venv $(TF)
	@$(TF)/bin/python scripts/uv.py pip install --requirement $< || { echo "error: $(TF) was not set up: see above"; echo "next:  make tensorflow   (Linux, Python 3.11 to 3.13, a package index)"; exit 9; }
	@touch $@

check: $(DEV) ## format, lint, types, import directions
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(DEV) ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# Texts of 64 tokens instead of 256, so that two cores need half an hour.
SHORT_TEXTS := --set finetune.sequence_length=64

study: $(READY) ## the studies of learning rate, size and adaptations, on the default data (half an hour)
	@for name in learning-rate size adaptation; do $(BIN)/pretune study $$name $(SHORT_TEXTS) || exit; done

docs-studies: $(READY) ## the same as pages of the documentation, docs/studies/
	@for name in learning-rate size adaptation; do $(BIN)/pretune study $$name $(SHORT_TEXTS) --markdown docs/studies || exit; done

docs: $(DEV) ## build the documentation as a site, site/index.html; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site/index.html; with search: $(BIN)/python -m http.server --bind 127.0.0.1 --directory site"

setup: $(READY) ## set up .venv from requirements.lock, to run the pipeline; TORCH=cpu, cu130, auto: that build of torch

$(CHOSEN): ;

$(READY): requirements.lock pyproject.toml $(CHOSEN)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit("error: Python 3.11 to 3.13 is needed, this is %d.%d\nnext:  make $(MAKECMDGOALS) PYTHON=python3.12" % v)'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "error: this Python cannot make environments"; echo "next:  sudo apt install python3-venv   (or another Python: make $(MAKECMDGOALS) PYTHON=...)"; exit 9; }
	@echo "setting up .venv from requirements.lock (about 230 packages; a minute or two, once)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@$(UV) pip install --requirement requirements.lock $(TORCH:%=--torch-backend % --reinstall-package torch)
	@$(UV) pip install --no-deps --no-build-isolation --editable .
	@$(BIN)/python -c 'from pathlib import Path; from pretune.lineage.dvc_config import keep_private; keep_private(Path.cwd())'
	@rm -f .venv/torch-*
	@touch $(CHOSEN) $(READY)

$(DEV): requirements-dev.lock $(READY)
	@echo "adding what tests and benchmarks need from requirements-dev.lock (about 90 packages; a minute, once)"
	@$(UV) pip install --requirement requirements-dev.lock
	@touch $(DEV)

lock: $(DEV) ## compile requirements.lock and requirements-dev.lock anew from pyproject.toml
	@$(LOCK) --all-extras --upgrade pyproject.toml --output-file requirements-dev.lock
	@$(LOCK) --extra build --constraint requirements-dev.lock pyproject.toml --output-file requirements.lock
	@$(LOCK) --upgrade to_tensorflow/requirements.in --output-file to_tensorflow/requirements.txt

audit: $(DEV) ## known vulnerabilities of the packages in both lock files
	@$(BIN)/python scripts/packages.py audit

sbom: $(DEV) ## the bill of materials of requirements.lock, dist/sbom.cdx.json (CycloneDX); belongs to each release
	@$(BIN)/python scripts/packages.py sbom

licences: $(DEV) ## the licences of the packages in requirements.lock, docs/licences.md
	@$(BIN)/python scripts/packages.py licences

bench-first-run: $(DEV) ## what the default run leads to with three seeds, beside its baselines; five minutes
	@$(BIN)/python benchmarks/first_run.py

bench-overhead: $(DEV) ## what everything but stage work costs
	@$(BIN)/python benchmarks/overhead.py

bench-start: $(DEV) ## how long a stage takes to begin
	@$(BIN)/python benchmarks/start.py

bench-train: $(DEV) ## speed of training beside the transformers Trainer
	@$(BIN)/python benchmarks/train.py

bench-llm: $(DEV) ## finetuning and asking a language model beside transformers, peft and TRL
	@$(BIN)/python benchmarks/llm.py
	@$(BIN)/python benchmarks/quantised.py

bench-plan: $(DEV) ## what `pretune plan` says beside what then happens
	@$(BIN)/python benchmarks/plan.py

bench-predict: $(DEV) ## speed of prediction beside transformers.pipeline, of answers beside generate
	@$(BIN)/python benchmarks/predict.py
	@$(BIN)/python benchmarks/generation.py

bench-history-server: $(DEV) ## the same of MLflow's server on PostgreSQL: make bench-history-server POSTGRES=postgresql://…
	@$(BIN)/python benchmarks/history_server.py $(POSTGRES)

bench-history: $(DEV) ## what reading the records costs when they are many (pretune trace, compare, promote, plan, run)
	@$(BIN)/python benchmarks/history.py

results: $(DEV) ## what each recipe leads to, pretrained against scratch (docs/results.md); about an hour
	@$(BIN)/python benchmarks/results.py

bench-data: $(DEV) ## speed and memory of the data stages, beside tokenizers and datasets
	@$(BIN)/python benchmarks/data.py

docs-figures: $(DEV) ## make the pictures of the documentation anew (needs Chromium); five minutes
	@$(BIN)/python benchmarks/figures.py

clean: ## remove what the pipeline made (not the records of it, nor DVC's cache)
	@rm -rf data/raw data/prepared models reports

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18
