# make env    create the environment .venv from pinned versions
# make demo   run the demo (config/config.yaml) and show its results
# make laptop tune a pretrained model of 135M parameters, with its control (MMLU=folder adds MMLU)
# make lint   check style and formatting
# make test   lint, and run all tests
# make test-faults   make jobs fail, damage files and give bad inputs on purpose (most of an hour)
# make test-slurm    run the workflow on a SLURM of two nodes, which is started for it (as root, on Debian)
# make docs   write config/README.md from the docstrings of the settings

PYTHON ?= python3
# make env CUDA=cu126: PyTorch built for that version of CUDA, as old GPUs or drivers need it
TORCH_INDEX := $(if $(CUDA),--index-url https://download.pytorch.org/whl/$(CUDA))
BIN := .venv/bin

.PHONY: demo laptop check test test-faults test-slurm env lint docs

env: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0 $(TORCH_INDEX)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: env
	$(BIN)/snakemake --profile profiles/local
	$(BIN)/expertchat show

# MMLU's questions come in no package: a folder with dev/, val/ and test/
MMLU ?= $(if $(EXPERTCHAT_DATA),$(wildcard $(EXPERTCHAT_DATA)/mmlu))
LAPTOP := --configfile config/presets/laptop.yaml --config
SECTION = 'mmlu={limit: 3, shots: 0, formulation: cloze, mixture: false, questions: {source: folder, path: $(MMLU)}}'
QUESTIONS = $(if $(MMLU),$(SECTION))

laptop: env
	@echo "MMLU: $(or $(MMLU),not measured; make laptop MMLU=folder does so with the questions in a folder)"
	$(BIN)/snakemake --profile profiles/local $(LAPTOP) control=none $(QUESTIONS)
	$(BIN)/snakemake --profile profiles/local $(LAPTOP) control=shuffled $(QUESTIONS)
	$(BIN)/expertchat show $(LAPTOP) control=none $(QUESTIONS)
	$(BIN)/expertchat show $(LAPTOP) control=shuffled $(QUESTIONS)

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/mypy

check: lint
	$(BIN)/python -m pytest --numprocesses auto -m "not slow"

test: lint
	$(BIN)/python -m pytest --numprocesses auto --ignore tests/test_cluster.py

test-faults: env
	PYTHONPATH=tests:benchmarks $(BIN)/python tests/faults/points.py --keep results/faults --record
	PYTHONPATH=tests:benchmarks $(BIN)/python tests/faults/corruptions.py --finished results/faults --record
	PYTHONPATH=tests:benchmarks $(BIN)/python tests/faults/bad_inputs.py --record
	PYTHONPATH=tests:benchmarks $(BIN)/python tests/faults/training_kills.py --record

test-slurm: env
	if [ "$$(id -u)" = 0 ] && [ -x "$$(command -v apt-get)" ]; then \
		apt-get -qq update && apt-get -qq -y install --no-install-recommends $$($(BIN)/python tests/slurm_cluster.py packages); \
	fi
	$(BIN)/python -m pytest tests/test_cluster.py tests/test_doctor.py -v -rs

docs: env
	$(BIN)/expertchat settings > config/README.md
	sed -i '/^## Tables$$/,$$d' docs/python.md
	$(BIN)/expertchat tables >> docs/python.md
