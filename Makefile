# Two commands set everything up on a machine with Python >= 3.11 and a C compiler: `make demo` and `make test`.

SHELL       := /bin/bash
VERSIONS    := $(shell .ci/interpreters | cut -d' ' -f1)
# Tools and benchmarks run on one version: 3.12 where it is present, else the newest there is.
MAIN        := $(or $(filter 3.12,$(VERSIONS)),$(lastword $(VERSIONS)))
PYTHON      := .venv/$(MAIN)/bin/python
NATIVE      := agent/glassbottom/native
GRAPH       := collector/glassbottom_collector/native
SOURCES     := $(wildcard $(NATIVE)/*.[ch] $(GRAPH)/*.[ch])
# Reinstalled when one of these is newer than the last installation; Python files are read where they lie.
INSTALLED_BY := pyproject.toml deploy/venv.sh $(SOURCES)
BENCHES     := overhead async footprint kill9 leaks curves pprof suites day dump redaction logs log_record capture false_alarms
PYTEST_ARGS ?= -n 2 --dist worksteal
SECONDS_OF_SOAK ?= 120
SEED_OF_SOAK ?= 1
# The report of a copy that writes a dump goes to a file: it has no other descriptor.
UNDER_SANITIZERS = PYTHONPATH=build/asan/lib LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
  ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:log_path=build/asan/report \
  UBSAN_OPTIONS=print_stacktrace=1:log_path=build/asan/report
ifdef CI
# A warning of the compiler fails CI; a user's newer compiler may warn of what ours does not know.
export CFLAGS := -Werror
endif

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check soak dist clean $(VERSIONS:%=test-%) $(BENCHES:%=bench-%)

help: ## Lists these targets
	@awk -F ':.*## ' '/^[a-z][a-z0-9.%-]*:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Python here: $(VERSIONS) (tools and benchmarks on $(MAIN))"

demo: .venv/$(MAIN)/.demo ## Starts a leaking service, finds its leak, and checks the verdict against the truth
	@.venv/$(MAIN)/bin/glassbottom demo $(ARGS)

test: $(VERSIONS:%=test-%) ## Runs all tests on every CPython 3.11-3.14 of this machine
	@test -n "$(VERSIONS)" || { echo "no CPython 3.11-3.14 here: apt-get install python3 python3-dev python3-venv" >&2; exit 1; }
	@echo "tested on CPython: $(VERSIONS); not on this machine: $(or $(filter-out $(VERSIONS),3.11 3.12 3.13 3.14),none)" >&2

$(VERSIONS:%=test-%): test-%: .venv/%/.test .venv/proto/.ready
	@echo "== CPython $*" >&2
	@.venv/$*/bin/python -m pytest $(PYTEST_ARGS) $(if $(filter $*,$(MAIN)),,-m 'not once')

test-%: .venv/%/.test ## Runs all tests on one version: make test-3.13 PYTEST_ARGS='-n 2 -k fork'
	@exit 2 # a version that is not here: its environment has failed and said how to install it

check: .venv/$(MAIN)/.check .venv/proto/.ready ## Formats, lints and types: ruff, mypy, clang-format, gcc warnings, proto
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@.venv/$(MAIN)/bin/clang-format --dry-run -Werror $(SOURCES)
	@set -e; .ci/interpreters | while read -r version python; do \
	  include=$$($$python -c 'import sysconfig; print(sysconfig.get_paths()["include"])'); \
	  $(CC) -std=c11 -O2 -Wall -Wextra -Werror -fsyntax-only -I"$$include" $(filter %.c,$(SOURCES)); \
	done
	@$(PYTHON) tests/lint/proto.py

format: .venv/$(MAIN)/.check ## Rewrites Python and C files as `make check` wants them
	@$(PYTHON) -m ruff format .
	@$(PYTHON) -m ruff check --fix .
	@.venv/$(MAIN)/bin/clang-format -i $(SOURCES)

$(BENCHES:%=bench-%): bench-%: .venv/$(MAIN)/.test
	@$(PYTHON) -m tests.bench.$* $(ARGS)

bench-%: ## Measures one claim: overhead, async, footprint, kill9, leaks, curves, pprof, suites, day, dump, redaction, logs, log_record, capture, false_alarms (ARGS="..." are passed on)
	@echo "no benchmark '$*'; there are: $(BENCHES)" >&2; exit 2

soak: .venv/$(MAIN)/.test ## Stresses the C core and heap dumps under ASAN + UBSAN (SECONDS_OF_SOAK=120, SEED_OF_SOAK=1)
	@rm -rf build/asan && mkdir -p build/asan
	@CFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined" \
	  $(PYTHON) -c "from setuptools import setup; setup()" -q build --build-base build/asan --build-lib build/asan/lib
	@$(UNDER_SANITIZERS) $(PYTHON) tests/native/stress.py --seconds $(SECONDS_OF_SOAK) || { cat build/asan/report* >&2; exit 1; }
	@$(UNDER_SANITIZERS) PYTHONMALLOC=malloc \
	  $(PYTHON) tests/native/stress_dumps.py --seconds $(SECONDS_OF_SOAK) --seed $(SEED_OF_SOAK) \
	  || { cat build/asan/report* >&2; exit 1; }

dist: .venv/$(MAIN)/.test ## Builds the source distribution and a wheel into dist/
	@rm -rf dist && $(PYTHON) -m build -q --no-isolation --outdir dist . && ls -l dist

clean: ## Removes everything that was built or installed here
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f agent/glassbottom/_native*.so collector/glassbottom_collector/_graph*.so
	find agent collector tests -name __pycache__ -prune -exec rm -rf {} +

# One stamp per set of extras. A version that is not on this machine ends in a sentence that says how to install it.
.venv/%/.demo: $(INSTALLED_BY)
	@deploy/venv.sh $* demo && touch $@

.venv/%/.test: $(INSTALLED_BY)
	@deploy/venv.sh $* test && touch $@ .venv/$*/.demo

.venv/%/.check: $(INSTALLED_BY)
	@deploy/venv.sh $* test,check && touch $@ .venv/$*/.test .venv/$*/.demo

# The pinned generator of agent/glassbottom/wire, for the tests that regenerate it and for the lint of proto/.
.venv/proto/.ready: proto/requirements.txt deploy/generate_wire.sh
	@mkdir -p build/wire && deploy/generate_wire.sh build/wire && touch $@
