# Two commands do everything on a machine with Python 3.11+ and make:
#   make book   builds the site            make test   runs every test            make quick   the quick ones
# Another Python is chosen at the first of them, as in `make PYTHON=python3.13 book`.
PYTHON ?= python3
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help book pdf slides quick test library course notebooks full bench constraints repository address diff-setup clean

bin := .venv/bin
# Three on two cores: while one of them reads or waits, two compute.
workers := 3
# Tests of what rests on where a minimizer in single precision stops, or on sums of many terms.
SENSITIVE := ratio two_sample many_data_sums
# Lines are counted from Python 3.12 on, which does it cheaply; before, it takes a third of the time.
counted = $$($(bin)/python -c 'import sys; print("--cov=himlib" * (sys.version_info >= (3, 12)))')
ready := .venv/ready
get_uv = [ -x $(bin)/uv ] || { $(PYTHON) -m venv .venv && $(bin)/python -m pip install --quiet --disable-pip-version-check uv; }
nowhere = grep -q OWNER/REPOSITORY _config.yml && echo "Before this is published: its links lead to OWNER/REPOSITORY, which is nowhere; make repository URL=... names the address"

# What JAX has compiled is kept for the next time, here for the tests and there for the chapters, whose programs have
# another number of threads. Continuous integration begins with an empty folder; make test compiled= keeps nothing.
compiled := $(CURDIR)/.compiled
kept = $(if $(compiled),JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.1 JAX_COMPILATION_CACHE_DIR=$(compiled)/$(1))

help:  ## list the targets
	@grep -hE '^[a-z]+[a-z-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "make %-12s %s\n", $$1, $$2}'

$(ready): pyproject.toml constraints.txt
	@echo "Setting up .venv: 1.6 GB on disk, a minute or two"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	@$(get_uv)
	@$(bin)/uv pip install --python $(bin)/python --compile-bytecode -c constraints.txt -e ".[book]" --group dev 2>&1 | grep -v '^ [-+~] '
	@touch $@

book: $(ready)  ## build the site from the stored outputs, warnings as errors
	@start=$$SECONDS; $(bin)/jupyter-book build book -W -n --keep-going; echo "The book is built ($$((SECONDS - start)) s). Read it in a browser: _build/html/index.html"
	@$(nowhere) || true

pdf: book  ## print the site as one PDF, _build/himlib.pdf; an installed Chromium does it
	@$(bin)/python book/pdf.py

slides: book  ## print the course's slides, _build/slides.pdf; an installed Chromium does it
	@$(bin)/python book/pdf.py slides

quick: $(ready)  ## what to run before a commit: style, types, and the tests that are not slow (3 minutes)
	@$(bin)/ruff check --quiet . && $(bin)/ruff format --check --quiet . && $(bin)/mypy --no-error-summary
	@env $(call kept,tests) $(bin)/pytest -q -n $(workers) --dist worksteal -m "not slow" --ignore=tests/test_site.py --doctest-modules tests himlib

test: $(ready)  ## run every test: style, library, chapters, book, site
	@start=$$SECONDS; failed=; \
	step() { local name=$$1 began=$$SECONDS; shift; echo "== $$name"; "$$@" || failed+=" [$$name]"; echo "== $$name: $$((SECONDS - began)) s"; }; \
	step "style" bash -c "$(bin)/ruff check --quiet . && $(bin)/ruff format --check --quiet . && $(bin)/mypy --no-error-summary"; \
	step "library and project" env COVERAGE_CORE=sysmon $(call kept,tests) $(bin)/pytest -q -n $(workers) --dist worksteal --durations=25 --ignore=tests/test_site.py --doctest-modules $(counted) tests himlib; \
	[ "$$(uname -m)" != x86_64 ] || step "as an older processor rounds" env XLA_FLAGS=--xla_cpu_max_isa=SSE4_2 OPENBLAS_CORETYPE=Nehalem $(bin)/pytest -q -n $(workers) $(SENSITIVE:%=tests/test_%.py); \
	step "chapters, executed and compared" env $(call kept,chapters) $(bin)/pytest -q --durations=10 -n $(workers) --dist loadfile --no-loadscope-reorder --nbval-lax --nbval-current-env --nbval-cell-timeout 800 $$(ls -r $(filter-out book/template.ipynb,$(wildcard book/*.ipynb))); \
	step "book" $(MAKE) --no-print-directory book; \
	step "site in a browser" $(bin)/pytest -q -rs -n 2 --dist worksteal tests/test_site.py; \
	[ -z "$$failed" ] || { echo "FAILED:$$failed"; exit 1; }; \
	echo "All tests passed ($$((SECONDS - start)) s)"

# Each in an environment of its own; what the tests need besides comes after it, and moves nothing.
newest :=
oldest := --resolution lowest-direct
colab := -r tests/colab.txt
place = _build/versions/$(VERSIONS)

library:  ## test the library alone with other versions: make library VERSIONS=newest (or oldest, or colab)
	@[[ " newest oldest colab " == *" $(VERSIONS) "* ]] || { echo "VERSIONS: expected newest, oldest or colab, got '$(VERSIONS)'"; exit 1; }
	@$(get_uv)
	@$(bin)/uv venv --quiet --clear --python "$$(command -v $(PYTHON))" $(place)
	@$(bin)/uv pip install --quiet --python $(place) $($(VERSIONS)) -e ".[book]"
	@$(bin)/uv pip freeze --exclude-editable --python $(place) | tee $(place)/versions.txt
	@$(bin)/uv pip install --quiet --python $(place) -c $(place)/versions.txt --group test
	@$(place)/bin/python -m pytest -q -n $(workers) --durations=10 --doctest-modules himlib $$(grep -LE '^(from|import) notebooks' tests/test_*.py)

course: $(ready)  ## make the course's students' and teacher's folders, into _build/course
	@$(bin)/python book/course/course.py build

notebooks: $(ready)  ## execute the chapters whose code changed, and store their outputs (ALL=1: every chapter)
	@$(bin)/ruff format --quiet book && env $(call kept,chapters) $(bin)/python book/notebooks.py run $(if $(ALL),--all) && $(bin)/python book/chapter_map.py

full: $(ready)  ## remake the stored results of long runs (hours), and execute the chapters at full size, into _build/full
	@for script in book/full/[0-9]*.py; do echo "== $$script"; $(bin)/python $$script; done
	@$(bin)/python book/notebooks.py full

bench: $(ready)  ## measure the speed of himlib
	@$(bin)/python -m tests.benchmarks

constraints: $(ready)  ## take the newest versions of everything into constraints.txt
	@$(bin)/uv pip compile pyproject.toml --extra book --group dev --universal --python-version 3.11 --upgrade --no-header --no-annotate --quiet -o constraints.txt

repository: $(ready)  ## write the repository's address wherever it is needed: make repository URL=...
	@$(bin)/python book/notebooks.py repository "$(URL)"

address:  ## stop while the repository's address is a placeholder
	@! { $(nowhere); }

diff-setup: $(ready)  ## show notebooks as text in git diff
	@git config diff.notebook.textconv "$(bin)/jupytext --to md --output -"; echo "git diff shows notebooks as text now"

clean:  ## remove what was built
	@rm -rf _build .pytest_cache .ruff_cache .mypy_cache .compiled .coverage
