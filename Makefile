PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# a run of about a minute: the recipe's ramps squeezed into 40 epochs
ARGS ?= --epoch 40 --masking_patch_epoch 20 --board_proba_epoch_start 7 --board_proba_epoch_end 27 --save 1

LEA_ARGS ?= --epoch 25 --loss_rfs_epoch_start 3 --loss_rfs_epoch_end 12 --save 1

.PHONY: train train-lea test bench lint

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
	$(RUN) -m pytest

bench: $(VENV)/.runtime
	$(RUN) benchmarks/bench_data.py
	$(RUN) benchmarks/bench_train.py
	$(RUN) benchmarks/bench_train.py --lea

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
