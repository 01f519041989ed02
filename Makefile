# Each target sets up its own environment in .venv; a second call finds the stamp and starts at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

SGLANG_VENV := .venv-sglang
SGLANG_STAMP := $(SGLANG_VENV)/.installed

# Another torch than the pinned one: from the first version that is supported to the newest.
TORCH ?= 2.8.0
TORCH_VENV := .venv-torch-$(TORCH)
TORCH_STAMP := $(TORCH_VENV)/.installed
PUBLIC_CASES := $(addprefix tests/scenarios/test_, $(addsuffix .py, collectives sequences peers timeouts group_misuse post_mortem processes controls))

# Another Python than the one of .venv, from 3.10 on.
OTHER_VENV := .venv-python-$(shell $(PYTHON) -c 'import platform; print(platform.python_version())')
OTHER_STAMP := $(OTHER_VENV)/.installed
WITHOUT_TORCH := $(addprefix tests/, agent cli contrib diagnosis dumps foundation hooks observer preflight probes report state tui web)

TORCH_GPU ?= torch==2.13.0
GPU_VENV := .venv-gpu
GPU_STAMP := $(GPU_VENV)/.installed
TEST_TOOLS := 'pytest>=8.4,<9' 'pytest-timeout>=2.3' 'pytest-asyncio>=1' 'pytest-xdist[psutil]>=3.6' 'hypothesis>=6.100'

.PHONY: demo test test-sglang test-torch test-python test-gpu check docs bench soak pictures clean
.DEFAULT_GOAL := test

# torch comes first and pinned: an unpinned one would fetch gigabytes of CUDA.
$(STAMP): pyproject.toml hatch_build.py distwatch/agent/_calls.c distwatch.pth tests/transformers4.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "distwatch needs Python 3.10 or newer: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[test,check]'
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/transformers4 -r tests/transformers4.txt
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/distwatch demo $(CASE)

# A worker a core, which is nearly full: ranks import torch. ARGS=-n0 is one after the other, as for --pdb.
# Compiled once, also where the environment keeps no byte code: some thousand processes would compile distwatch anew.
test: $(STAMP)
	$(BIN)/python -m compileall -q distwatch tests/support tests/scenarios/jobs
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadgroup $(ARGS)

# The real SGLang, 2.5 GB, in an environment of its own.
$(SGLANG_STAMP): pyproject.toml tests/real_sglang/requirements.txt
	$(PYTHON) -m venv $(SGLANG_VENV)
	$(SGLANG_VENV)/bin/python -m pip install --quiet torch==2.13.0
	$(SGLANG_VENV)/bin/python -m pip install --quiet --no-deps -r tests/real_sglang/requirements.txt
	$(SGLANG_VENV)/bin/python -m pip install --quiet --no-warn-conflicts --editable .
	$(SGLANG_VENV)/bin/python -m pip install --quiet --no-warn-conflicts 'pytest>=8.4,<9' 'pytest-timeout>=2.3' 'pytest-asyncio>=1'
	echo "$(CURDIR)/tests/doubles/torchvision_stand_in" > "$$($(SGLANG_VENV)/bin/python -c 'import site; print(site.getsitepackages()[0])')/torchvision_stand_in.pth"
	@touch $(SGLANG_STAMP)

test-sglang: $(SGLANG_STAMP)
	$(SGLANG_VENV)/bin/python -m pytest tests/real_sglang $(ARGS)

# The cases that were taken from public reports, on another torch. A build for CUDA runs gloo on a CPU: some 7 GB.
$(TORCH_STAMP): pyproject.toml
	$(PYTHON) -m venv $(TORCH_VENV)
	$(TORCH_VENV)/bin/python -m pip install --quiet torch==$(TORCH) numpy
	$(TORCH_VENV)/bin/python -m pip install --quiet --editable . $(TEST_TOOLS) safetensors torch==$(TORCH)
	@touch $(TORCH_STAMP)

test-torch: $(TORCH_STAMP)
	$(TORCH_VENV)/bin/python -m pytest -p no:cacheprovider $(or $(ARGS),$(PUBLIC_CASES))

# What needs no torch, on another Python: a test that needs it is skipped, and says so.
$(OTHER_STAMP): pyproject.toml
	$(PYTHON) -m venv $(OTHER_VENV)
	$(OTHER_VENV)/bin/python -m pip install --quiet --editable '.[web,notify,mcp,otel]' $(TEST_TOOLS) pytest-textual-snapshot==1.1.0 'prometheus-client>=0.20' 'click-man>=0.6' filelock
	@touch $(OTHER_STAMP)

test-python: $(OTHER_STAMP)
	$(OTHER_VENV)/bin/python -m pytest -p no:cacheprovider $(or $(ARGS),$(WITHOUT_TORCH))

# What one GPU can prove: docs/gpu.md. TORCH_GPU names a torch that is built for CUDA.
$(GPU_STAMP): pyproject.toml
	$(PYTHON) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/python -m pip install --quiet '$(TORCH_GPU)' numpy
	$(GPU_VENV)/bin/python -m pip install --quiet --editable . $(TEST_TOOLS) '$(TORCH_GPU)' transformers==5.23.0 accelerate==1.15.0 safetensors
	@touch $(GPU_STAMP)

test-gpu: $(GPU_STAMP)
	$(GPU_VENV)/bin/python -m pytest -p no:cacheprovider tests/gpu $(ARGS) || [ $$? = 5 ]  # 5: all skipped

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports
	$(BIN)/vulture
	$(BIN)/python tools/check_sizes.py
	$(BIN)/python tools/check_words.py
	$(BIN)/python tools/findings_page.py --check
	$(BIN)/python tools/man_pages.py --check
	$(BIN)/python tools/check_manifests.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# The pages as a site: site/index.html.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

bench: $(STAMP)
	$(BIN)/python benchmarks/import_cost.py
	$(BIN)/python benchmarks/host_budgets.py
	$(BIN)/python benchmarks/worst_inputs.py
	$(BIN)/python benchmarks/collective_cost.py
	$(BIN)/python benchmarks/step_cost.py
	$(BIN)/python benchmarks/load_cost.py
	$(BIN)/python benchmarks/init_cost.py
	$(BIN)/python benchmarks/init_verdicts.py
	$(BIN)/python benchmarks/verdict_latency.py
	$(BIN)/python benchmarks/stack_merge.py
	$(BIN)/python benchmarks/dump_matching.py
	$(BIN)/python benchmarks/beside_torchfrtrace.py
	$(BIN)/python benchmarks/log_import.py
	$(BIN)/python -m benchmarks.nccl_verdicts
	$(BIN)/python -m benchmarks.tui_cost --seconds 20
	$(BIN)/python benchmarks/many_ranks.py --seconds 15
	$(BIN)/python benchmarks/judge_rounds.py

# Kills, damaged inputs and hostile connections, for some twenty minutes; a short form runs with the tests.
soak: $(STAMP)
	$(BIN)/python -m tests.soak

# The pictures of README and docs, of a demo run that hangs; needs a Chromium.
pictures: $(STAMP)
	$(BIN)/python tools/pictures.py

clean:
	rm -rf $(VENV) $(SGLANG_VENV) $(GPU_VENV) .venv-torch-* .venv-python-* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find distwatch -name "*.so" -delete
