# Everything is set up on first use: `make demo` and `make test` need only Python >= 3.11 and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test lint bench docs clean

demo: $(VENV)/.ready
	$(BIN)/eegvlm demo

# As many processes as there are cores, each with one thread: small models gain nothing from several.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup --no-loadscope-reorder

lint: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Without those that ask a model of yours.
bench: $(VENV)/.ready
	for script in $(filter-out %/counterfactual.py %/review.py,$(wildcard scripts/bench/*.py)); do $(BIN)/python $$script || exit 1; done

# Into build/docs/index.html; a warning is an error.
docs: $(VENV)/.docs
	$(BIN)/sphinx-build -E -W --keep-going -q -d build/doctrees docs build/docs
	@echo "build/docs/index.html"

clean:
	rm -rf $(VENV) build demo_data .pytest_cache .mypy_cache .ruff_cache

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "eegvlm needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(VENV)/.docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@
