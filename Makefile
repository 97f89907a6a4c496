# Every target runs from .venv, which is made on first use from the versions in constraints.txt.
# Needed: make, and Python 3.11, 3.12 or 3.13. Choose one with `make PYTHON=/path/to/python ...`.

VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
PYTHON ?= python3

PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# The build backend comes from constraints.txt as well, so an install builds nothing that is not pinned.
INSTALL = $(PIP) install --quiet -c constraints.txt setuptools && \
          $(PIP) install --quiet --no-build-isolation -c constraints.txt -e
PYTEST := $(BIN)/python -m pytest

.PHONY: help demo test test-fast test-slow test-versions test-release lint format types docs bench clean

help:
	@echo "make demo       train, prune, compile and verify a small network on real data"
	@echo "make test       the tests"
	@echo "make test-fast  the tests that need no TensorFlow"
	@echo "make test-slow  the tests that take long"
	@echo "make test-versions  some of them with the oldest and the newest versions of all libraries, and on the CPU build"
	@echo "make test-release  more of the same, for hours"
	@echo "make lint       ruff, which room imports which, and the wording of pages and messages"
	@echo "make format     rewrite the sources as ruff wants them"
	@echo "make types      mypy --strict on maskc, passes and benchmarks"
	@echo "make docs       the documentation, into site/"
	@echo "make bench      every benchmark, for hours; make bench ONLY=\"dense growth\" for some"
	@echo "make clean      remove .venv, caches and build results"

demo: $(VENV)/.demo
	@$(BIN)/maskc demo

test: $(VENV)/.dev
	$(PYTEST) -m "not slow and not release" -n $(JOBS)

test-fast: $(VENV)/.dev
	$(PYTEST) -m "not slow and not release and not tensorflow" -n $(JOBS)

# pytest ends with 5 when there is no test to run.
test-slow: $(VENV)/.dev
	$(PYTEST) -m "slow and not release" -n $(JOBS) || [ $$? -eq 5 ]

# Downloads some 2 GB.
test-versions: $(VENV)/.dev
	JOBS=$(JOBS) .ci/versions

test-release: $(VENV)/.dev
	$(PYTEST) -m release -n $(JOBS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/python -m tests.lint

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev
	$(BIN)/mypy --strict -p maskc -p passes -p benchmarks

# The variable leaves out what the theme says of its successor.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open site/index.html; for the search, python3 -m http.server -d site"

# Nothing else should run meanwhile. Other tools to compare with go into .peers, published models into .published.
bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(ONLY)

clean:
	rm -rf $(VENV) .peers .published site build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ensurepip is asked for because some systems ship a Python that cannot make a virtual environment with pip.
$(VENV)/.created:
	@for python in $(PYTHON) python3.13 python3.12 python3.11 python; do \
	    if "$$python" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	        >/dev/null 2>&1; then \
	        echo "Making $(VENV) with $$("$$python" --version)"; \
	        "$$python" -m venv --clear $(VENV) && touch $@; exit; \
	    fi; \
	done; \
	echo "maskc needs Python 3.11, 3.12 or 3.13 with the venv module, and none was found." \
	     "Install one, or name it: make PYTHON=/path/to/python." >&2; exit 1

$(VENV)/.demo: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing maskc and TensorFlow into $(VENV)"
	@$(INSTALL) '.[demo]'
	@touch $@

# The development install holds all that the demo needs.
$(VENV)/.dev: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing maskc and what its tests need into $(VENV)"
	@$(INSTALL) '.[dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.bench: $(VENV)/.dev
	@echo "Installing what the benchmarks need into $(VENV)"
	@$(INSTALL) '.[dev,bench]'
	@touch $@
