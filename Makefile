# make demo    set up, then remove the cup from the built-in sample, and compare four variants on it in a report
# make check   set up, then format, lint, types, import contracts and the fast tests: a few minutes
# make test    set up, then format, lint, types, import contracts and all tests
# make gate    set up, then check accuracy and quality of some variants against baselines/
# make bless   make the baseline of accuracy anew, where a shift is wanted; make bless-quality that of quality
# make docs    set up, then build docs/ and API pages into site/; broken links fail
# make train-small  set up, then train the small weights into trained/, in about an hour; PHOTOGRAPHS= names more pictures
# make setup   the environment alone, in .venv
# make gpu-wheels  fetch what a GPU machine without a network lacks into wheels/, for scripts/gpu_evidence.sh
#
# PYTHON=python3.12 chooses the interpreter. Versions are those of constraints.txt where the interpreter is new enough
# for them; CONSTRAINTS= takes the newest that pyproject.toml allows.

PYTHON ?= python3
NEW_ENOUGH := $(shell $(PYTHON) -c 'import sys; print("yes" if sys.version_info >= (3, 11) else "")')
CONSTRAINTS ?= $(if $(NEW_ENOUGH),constraints.txt)
LIMITS := $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
UV := $(shell command -v uv 2>/dev/null)
BIN := .venv/bin
ifneq ($(UV),)
VENV := uv venv --quiet --allow-existing --python $(PYTHON) .venv
INSTALL := uv pip install --quiet --python $(BIN)/python $(LIMITS)
else
VENV := $(PYTHON) -m venv .venv
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(LIMITS)
endif

.PHONY: setup demo lint types contracts fast check test

setup: .venv/.installed

.venv/.installed: pyproject.toml $(CONSTRAINTS)
	$(VENV)
	@echo "installing torch and the rest (about 6 GB); this takes a few minutes"
	$(INSTALL) --editable '.[dev]'
	@touch $@

# Compared with reference and truth, and not timed.
ONE_RUN := measure.min_samples=0 measure.max_samples=0 measure.max_warmups=0 measure.flops=false

# One picture, then a sweep. 24 frames, since what is behind the hole must be seen elsewhere: 2% of it never is, of 6 frames
# 70%. The sweep measures in turn with published, so that other processes slow both alike.
DEMO_WEIGHTS ?= weights=small
DEMO_CLIP ?= data.num_frames=24 data.height=240 data.width=432
DEMO_SWEEP_CLIP ?= data.num_frames=24 data.height=128 data.width=160
demo: setup
	$(BIN)/python run.py $(DEMO_WEIGHTS) $(DEMO_CLIP) $(ONE_RUN)
	$(BIN)/python run.py -m attention=sdpa,manual precision=amp,fp32 $(DEMO_WEIGHTS) $(DEMO_SWEEP_CLIP) \
		measure.baseline=published measure.min_pairs=3 measure.max_samples=3 measure.max_warmups=1 measure.flops=false

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

lint: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check

types: setup
	$(BIN)/mypy

contracts: setup
	$(BIN)/lint-imports

fast: setup
	$(PYTEST) -m 'not slow'

check: lint types contracts fast

test: lint types contracts
	$(PYTEST)

# The accuracy gate: variants of a small sample against the baseline that is kept here. On another processor or torch
# the reference may differ by rounding (--tolerant).
GATE := attention=manual,sdpa precision=fp32,amp reuse=none,exact kernels=torch,cpu weights=seeded quality.lpips=false \
	data.num_frames=4 data.height=128 data.width=136 schedule.raft_iterations=4 \
	measure.min_samples=1 measure.max_samples=1 measure.max_warmups=0 measure.flops=false report=false

# The quality gate: PSNR in the hole against the truth, with weights that paint. Rounding moves it by far less than the
# 0.2 dB that it may fall, so that one baseline serves all processors and versions of torch (--truth-only).
QUALITY_WEIGHTS ?= weights=small
QUALITY := $(QUALITY_WEIGHTS) quality.lpips=false data.num_frames=24 data.height=128 data.width=160 $(ONE_RUN) \
	output.preview_frames=1

.PHONY: gate gate-sweep gate-quality bless bless-quality
gate-quality: setup
	rm -rf .gate-quality
	set -e; for variant in precision=fp32 precision=amp preset=fast; do \
		$(BIN)/python run.py $$variant $(QUALITY) hydra.run.dir=.gate-quality/$${variant#*=}; done

gate-sweep: setup
	rm -rf .gate
	$(BIN)/python run.py -m $(GATE) hydra.sweep.dir=.gate

gate: gate-sweep gate-quality
	$(BIN)/python -m analysis check .gate --baseline baselines/amd-epyc/sample.json --tolerant --accuracy-only
	$(BIN)/python -m analysis check .gate-quality --baseline baselines/quality.json --truth-only

bless: gate-sweep
	$(BIN)/python -m analysis bless .gate -o baselines/amd-epyc/sample.json

bless-quality: gate-quality
	$(BIN)/python -m analysis bless .gate-quality -o baselines/quality.json

# By PYTHON's own pip: uv has no download.
.PHONY: gpu-wheels
gpu-wheels:
	$(PYTHON) scripts/gpu_wheels.py

# The weights that propainter/small/ holds were made so. A training that was stopped goes on with `make train-small` too.
TRAINED ?= trained
PHOTOGRAPHS ?= null
define train
	if [ -f $(TRAINED)/$(1)/checkpoint.pt ]; then $(BIN)/python run.py resume=$(TRAINED)/$(1); else \
	$(BIN)/python run.py experiment=train train=small_$(1) $(2) hydra.run.dir=$(TRAINED)/$(1); fi
endef

.PHONY: train-small
train-small: setup
	$(call train,completion,train.photographs=$(PHOTOGRAPHS))
	$(call train,generator,train.photographs=$(PHOTOGRAPHS) train.flow_completion=$(TRAINED)/completion)

.PHONY: docs
docs: .venv/.installed-docs
	$(BIN)/zensical build --strict --clean

.venv/.installed-docs: .venv/.installed
	$(INSTALL) --editable '.[docs]'
	@touch $@
