# Everything runs in .venv with the exact versions of requirements.lock. `make help` lists the commands.
#
#   PYTHON   the interpreter that .venv is made with: make repro PYTHON=python3.12
#   TORCH    your own build of torch, as pip takes it (a version, a wheel's path, options):
#            make repro TORCH=/wheels/torch-2.12.0-cp311-linux.whl
#            make repro TORCH="torch==2.12.0+cu126 --extra-index-url https://your.index"
#            Unset: torch as requirements.lock names it, from the indexes that pip is configured with.
#
#   make compare takes, each as it likes:
#   VARIANTS="none token gmm-k4-write"  SEEDS="13 14 15"  JOBS=2  NAME=long  LAUNCHER=slurm
#   SET="profile=squad_v2_long profiles.squad_v2_long.max_train_documents=100"
#
#   make pretrain takes CORPUS (SQuAD files, text files, folders of .txt; CORPUS= takes the tokens in data/corpus),
#   TOKENIZER (a folder, a Hub id or scratch) and PRETRAIN="--n-layer 6 --steps 1000" (gmmxlnet pretrain --help).
#   make long-documents takes VARIANTS, SEEDS and SET as make compare does, and NAME, which is its report's.
#   docs/gpu.md tells the order of it all.
#   make capacity takes VARIANTS, LOADS="2 4", SEEDS="13 14", SET, and ARGS="--lag 1 --steps 900" for the rest.
#   make real-text takes READER (an XLNet, best with a span head), SQUAD (a folder), STORIES (a folder; left out: none),
#   TASKS="code-words stories articles", LOADS="4 8", VARIANTS, SEEDS, SET and NAME, and ARGS="--num-train 1000" for the rest.
#
#   make reader takes BERT (a BERT's folder or Hub id), SQUAD (a dataset's folder or Hub id), HOURS (default 1) or STEPS as
#   an earlier run printed, and SET. docs/running.md.

PYTHON ?= python3
TORCH ?=
TESTS ?= tests
VARIANTS ?=
SEEDS ?=
JOBS ?=
LAUNCHER ?=
NAME ?=
SET ?=
QUICK ?=
ONLY ?=
CASES ?=
SEED ?=
CORPUS ?= ../shared/squad/train-v2-style.json
TOKENIZER ?= ../shared/xlnet-base-cased
PRETRAIN ?=
BERT ?=
HOURS ?=
STEPS ?=
READER ?= models/reader
SQUAD ?= ../shared/squad
STORIES ?=
TASKS ?=
LOADS ?=
FAMILIES ?=
ARGS ?=

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
CONSTRAINTS := $(VENV)/constraints.txt
STAMP := $(VENV)/.installed
export PATH := $(BIN):$(PATH)
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

.PHONY: help install repro test kill-test mutants mutation dvc-walk scale-test compare reproduce fuzz lint ui track bench bench-gpu pretrain long-documents reader real-text capacity clean
.DEFAULT_GOAL := help

help:
	@echo "make repro      the whole experiment: dvc repro on the profile that params.yaml names"
	@echo "make test       the tests (TESTS=tests/data for some)"
	@echo "make kill-test  kill a small training 20 times at random moments; each must end with the same bytes"
	@echo "make mutants    plant each fault of tests/mutants.toml: its test must fail (ONLY=\"names\" for some; minutes)"
	@echo "make mutation   make every small change to the pure functions: how many does a test see? (hours)"
	@echo "make scale-test the tests of docs/scaling.md with real servers: Slurm, S3, SSH, two hosts (installs them as root)"
	@echo "make compare    train all variants, report in reports/comparison.md (VARIANTS, SEEDS, JOBS, NAME, SET, LAUNCHER; see above)"
	@echo "make dvc-walk   DVC's experiments from odd places: other paths, worktree, shallow clone, ... (ONLY=\"names\"; an hour)"
	@echo "make reproduce  run this commit twice in empty clones; every output must be the same, bit for bit"
	@echo "make fuzz       10,000 damaged files of every kind: read right, or refused in one line (CASES, SEED)"
	@echo "make lint       ruff and mypy"
	@echo "make bench      speed and memory against transformers, into reports/benchmarks.md (QUICK=1: a miniature)"
	@echo "make bench-gpu  the same on a GPU, family by family, into reports/gpu/ (FAMILIES; QUICK=1: a miniature on a CPU)"
	@echo "make pretrain   an encoder from plain text into models/encoder, on a GPU (CORPUS, TOKENIZER, PRETRAIN; see above)"
	@echo "make long-documents  it with every kind of memory on whole articles, on a GPU; report in reports/long-documents.md"
	@echo "make reader     a reader of real text from a BERT and SQuAD in an hour (BERT, SQUAD, HOURS, STEPS, SET; see above)"
	@echo "make real-text  every kind of memory on code words in real text, stories and articles (READER, SQUAD, STORIES; see above)"
	@echo "make capacity   how many facts every kind of memory keeps, and whether its routing matters (VARIANTS, LOADS, SEEDS; see above)"
	@echo "make ui         MLflow's pages on all runs"
	@echo "make track      send MLflow what it missed while it was away; nothing is sent twice"
	@echo "make install    only make .venv"
	@echo "make clean      remove .venv"

install: $(STAMP)

# First the check, since DVC itself may need minutes and gigabytes to read a params.yaml that no stage would accept.
repro: $(STAMP)
	python -m pipeline.check
	dvc repro

test: $(STAMP)
	OMP_NUM_THREADS=1 python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(TESTS)

kill-test: $(STAMP)
	KILLS=20 OMP_NUM_THREADS=1 python -m pytest tests/pipeline/test_train_killed.py

mutants: $(STAMP)
	python -m scripts.mutants $(if $(ONLY),--only $(ONLY))

mutation: $(STAMP)
	python -m pip install --quiet -c $(CONSTRAINTS) --no-build-isolation -e '.[mutation]'
	OMP_NUM_THREADS=1 python -m scripts.mutation

scale-test: $(STAMP)
	python -m pip install --quiet -c $(CONSTRAINTS) --no-build-isolation -e '.[servers]'
	scripts/install_servers.sh
	OMP_NUM_THREADS=1 python -m pytest -m servers -rs tests/servers

compare: $(STAMP)
	python -m pipeline.compare $(if $(NAME),--name $(NAME)) $(if $(VARIANTS),--variants $(VARIANTS)) \
		$(if $(SEEDS),--seeds $(SEEDS)) $(if $(JOBS),--jobs $(JOBS)) $(if $(LAUNCHER),--launcher $(LAUNCHER)) \
		$(if $(SET),--set $(SET))

dvc-walk: $(STAMP)
	python -m scripts.dvc_walk $(if $(ONLY),--only $(ONLY))

reproduce: $(STAMP)
	python -m scripts.reproduce

fuzz: $(STAMP)
	OMP_NUM_THREADS=1 python -m scripts.fuzz $(if $(CASES),--cases $(CASES)) $(if $(SEED),--seed $(SEED))

lint: $(STAMP)
	ruff check .
	ruff format --check .
	mypy

# A miniature is written aside: its figures say nothing.
bench: $(STAMP)
	python -m benchmarks $(if $(QUICK),--quick --out .bench)
	python -m benchmarks.memory $(if $(QUICK),--segments 1 2 4 --out .bench)

bench-gpu: $(STAMP)
	python -m benchmarks.gpu $(if $(QUICK),--quick --out .bench/gpu) $(if $(FAMILIES),--families $(FAMILIES))

pretrain: $(STAMP)
	gmmxlnet pretrain $(if $(CORPUS),--corpus $(CORPUS) --tokenizer $(TOKENIZER)) --num-workers 4 $(PRETRAIN)

long-documents: $(STAMP)
	python -m pipeline.long_documents $(if $(NAME),--name $(NAME)) $(if $(VARIANTS),--variants $(VARIANTS)) \
		$(if $(SEEDS),--seeds $(SEEDS)) $(if $(SET),--set $(SET))

reader: $(STAMP)
	python -m pipeline.reader --bert "$(BERT)" --squad "$(SQUAD)" $(if $(HOURS),--hours $(HOURS)) \
		$(if $(STEPS),--steps $(STEPS)) $(if $(SET),--set $(SET))

real-text: $(STAMP)
	python -m pipeline.real_text $(if $(NAME),--name $(NAME)) --reader $(READER) --squad $(SQUAD) \
		$(if $(STORIES),--stories $(STORIES)) $(if $(TASKS),--tasks $(TASKS)) $(if $(LOADS),--loads $(LOADS)) \
		$(if $(VARIANTS),--variants $(VARIANTS)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(SET),--set $(SET)) $(ARGS)

capacity: $(STAMP)
	python -m pipeline.capacity $(if $(VARIANTS),--variants $(VARIANTS)) $(if $(LOADS),--loads $(LOADS)) \
		$(if $(SEEDS),--seeds $(SEEDS)) $(if $(SET),--set $(SET)) $(ARGS)

# MLflow opens its pages for language models unless the address asks for those on training.
ui: $(STAMP)
	@echo "Open http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning"
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1 --backend-store-uri sqlite:///mlflow.db

track: $(STAMP)
	python -m pipeline.track

clean:
	rm -rf $(VENV)

# A torch of the user's own frees torch (and what a GPU build brings along) from the constraints. setuptools warns of
# every editable installation; this is meant to be one.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "make: Python 3.11, 3.12 or 3.13 is needed; name one: make PYTHON=python3.12 …" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(TORCH),grep -v '^torch==',cat) requirements.lock > $(CONSTRAINTS)
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) pip setuptools
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) --no-build-isolation $(or $(TORCH),torch)
	PYTHONWARNINGS=ignore::UserWarning $(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) --no-build-isolation -e '.[pipeline,dev]'
	@touch $@
