# make demo   the whole pipeline on handwritten digits, minutes on a laptop
# make test   everything that the tests need, then the tests
# make venv   .venv with the pinned requirements, every file verified by its checksum: 5.2 GB, of which
#             CUDA is 4. Without an NVIDIA GPU name an index that has CPU builds of torch (pytorch.org shows it under
#             "CPU"): make venv TORCH_INDEX=https://... (also for demo, test). Then torch and torchvision come from
#             there, in the pinned versions, unverified; CUDA does not come; all the rest is verified as ever.
#             Where the package index has files of its own: make venv REQUIREMENTS="-r requirements.txt"
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REQUIREMENTS ?= --require-hashes -r requirements.lock
CORES ?= $(shell $(PYTHON) -c "import os; print(os.cpu_count())")
# what is called here is that of .venv
export PATH := $(CURDIR)/$(BIN):$(PATH)
# the scripts find the library beside them, which this would forbid
unexport PYTHONSAFEPATH

.PHONY: demo test test-all test-slurm test-conda docs lint audit reliability venv lock bench bench-gpu thesis-gpu clean

demo: $(VENV)/.runtime
	snakemake --cores $(CORES) --configfile workflow/presets/demo.yaml
	python workflow/scripts/print_tables.py --output results/demo

# tests/slurm runs where slurm-wlm and munge are installed, as root, and is skipped elsewhere; after the others, for
# its jobs take all cores
test: $(VENV)/.dev
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" --durations 20 --ignore tests/slurm
	python -m pytest -m "not slow" --durations 20 tests/slurm

# on a real SLURM that the tests start from Debian's packages (slurm-wlm, munge; for the one with accounts also
# slurmdbd, mariadb-server, mariadb-client), as root
test-slurm: $(VENV)/.dev
	python -m pytest tests/slurm

# where there is a conda: the environments of envs/, on a channel of stubs; minutes, and pip's part from an index
test-conda: $(VENV)/.dev
	python -m pytest tests/conda

# also what takes minutes
test-all: $(VENV)/.dev
	python -m pytest

# the site, into build/docs/html: the pages, the notebooks, the API of the docstrings
docs: $(VENV)/.dev
	python docs/site/build.py --output build/docs

lint: $(VENV)/.dev
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow/Snakefile workflow/rules
	snakemake --lint
	bandit --quiet --configfile pyproject.toml --recursive workflow/scripts

# what is installed against requirements.lock, then the lock against what is known of its packages: that needs the
# internet, and an environment of its own, for pip-audit pulls in packages that are not locked
audit: $(VENV)/.dev
	python -m pytest tests/unit/test_security.py
	python -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	$(VENV)/audit/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock

# every fault and bad input, the long ones too, and what came of them: tests/RELIABILITY.md; then, with nothing beside
# it, the grid of a thousand trainings through SLURM: tests/RELIABILITY_GRID.md
GRID := tests/slurm/test_slurm.py::test_a_large_grid

reliability: $(VENV)/.dev
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --reliability tests/RELIABILITY.md --deselect $(GRID) \
	    tests/slurm tests/faults tests/unit/test_config_values.py tests/unit/test_config_messages.py \
	    tests/unit/test_config_snakemake.py tests/unit/test_data.py tests/unit/test_data_download.py \
	    tests/unit/test_models.py tests/unit/test_security.py tests/unit/test_run.py \
	    tests/workflow/test_large_grid.py
	python -m pytest --reliability tests/RELIABILITY_GRID.md $(GRID)

# the CPU's part in under 10 minutes; benchmarks/RESULTS.md says what came of it
bench: $(VENV)/.dev
	python -m benchmarks.kaf --device cpu --threads 1
	python -m benchmarks.attack --device cpu --images 32 --json results/benchmarks/attack.json
	python -m benchmarks.training --device cpu --images 256 --seconds 240
	python -m benchmarks.grid
	python -m benchmarks.grid --target models --trainings 10005 --repeats 1 --output results/benchmarks/grid_models.json

# a GPU's part, in one call of under 8 minutes: kernels, steps beside their peers, PGD-50-10 on the thesis's networks
# (WEIGHTS: the folder of their converted files; without it that is left out), beside the targets
WEIGHTS ?=
DATA ?= results/data/cifar10.safetensors

bench-gpu: $(VENV)/.dev $(DATA)
	python -m benchmarks.gpu --data $(DATA) $(if $(WEIGHTS),--weights $(WEIGHTS))

# the thesis's grid, and what its records say, beside the benchmarks' figures
thesis-gpu: $(VENV)/.runtime
	python -m benchmarks.thesis --cores $(CORES)

$(DATA): | $(VENV)/.runtime
	snakemake --cores $(CORES) -- $@

venv: $(VENV)/.runtime

$(VENV)/bin/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

ifdef TORCH_INDEX
# the lock without torch and what its CUDA build brings; of torch, its pins
$(VENV)/.runtime: requirements.txt requirements.lock | $(VENV)/bin/python
	grep -E '^torch(vision)?==' requirements.txt > $(VENV)/torch.txt
	sed -E '/^(torch|torchvision|triton|cuda-[^=]*|nvidia-[^=]*)==/,/[^\\]$$/d' requirements.lock > $(VENV)/rest.lock
	$(PIP) --no-deps --index-url $(TORCH_INDEX) -r $(VENV)/torch.txt
	$(PIP) --no-deps --require-hashes -r $(VENV)/rest.lock
	touch $@
else
$(VENV)/.runtime: requirements.txt requirements.lock | $(VENV)/bin/python
	$(PIP) $(REQUIREMENTS)
	touch $@
endif

# requirements.txt with all that it pulls in and the checksum of every file, for every platform; needs uv
lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --quiet \
	    --custom-compile-command "make lock" --output-file requirements.lock requirements.txt

$(VENV)/.dev: requirements-dev.txt requirements-docs.txt $(VENV)/.runtime
	$(PIP) -r requirements-dev.txt
	# its metadata asks for a requests of 2021, which nothing here can live with; the attacks do not use it
	$(PIP) --no-deps torchattacks==3.5.1
	touch $@

clean:
	rm -rf $(VENV) .snakemake results/demo
