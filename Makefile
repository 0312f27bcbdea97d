PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# flags of the two trainings; others: make train ARGS="@recipes/factor_fast.args --seed 0"
ARGS ?= @recipes/try.args
LEA_ARGS ?= @recipes/try_lea.args

# processes that share the tests
WORKERS ?= 2
# tests of studies, and those that train much, run the scripts, kill them, count all boards, draw every figure or open notebooks
SLOW := analysis arguments best_reconstruction circuits claims_* damaged_files dataset_files dictionaries distributed editing evaluation \
        explorer explorer_page export hooks interoperation notebooks portability probing recipe recipes reliability run_folder \
        scripts splits streams threads train_probe train_probe_lea wandb words_start

.PHONY: train train-lea test check notebooks stress bench lint explorer

$(VENV)/.runtime: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -r requirements.txt
	touch $@

$(VENV)/.dev: requirements.txt requirements-dev.txt $(VENV)/.runtime
	$(RUN) -m pip install -r requirements-dev.txt
	touch $@

train: $(VENV)/.runtime
	$(RUN) train_model.py $(ARGS)

train-lea: $(VENV)/.runtime
	$(RUN) train_model_lea.py $(LEA_ARGS)

test: $(VENV)/.dev
	$(RUN) -m pytest -n $(WORKERS) --dist worksteal

# for while one works: every test but those of the files named in SLOW
check: lint
	$(RUN) -m pytest -q -n $(WORKERS) --dist worksteal $(SLOW:%='--ignore-glob=*/test_%.py')

notebooks: $(VENV)/.dev
	$(RUN) tests/test_notebooks.py

stress: $(VENV)/.dev
	$(RUN) tests/stress/stress.py

bench: $(VENV)/.runtime
	$(RUN) benchmarks/bench_data.py
	$(RUN) benchmarks/bench_train.py
	$(RUN) benchmarks/bench_train.py --lea

# the page of two pretrained networks; a test compares it with what the command writes
explorer: $(VENV)/.runtime
	$(RUN) -m studies.explorer pretrained/factor_best --lea pretrained/lea --out docs/explorer.html

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
