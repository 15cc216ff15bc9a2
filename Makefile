# Needs Python 3.11 or newer with venv and headers, g++ 12 or newer, and GNU make; everything else
# is installed into .venv at the versions in constraints.txt.
#
#   make PYTHON=python3.13 test      another interpreter (after make distclean)
#   make PIP_FLAGS="..." demo        more arguments for pip, such as an --extra-index-url that has
#                                    torch without CUDA
PYTHON ?= python3
PIP_FLAGS ?=
OUT ?= build/demo

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install -qq -c constraints.txt $(PIP_FLAGS)
SOURCES := $(shell find src csrc cmake tests/cpp tests/gpu -type f ! -name '*.py*' 2>/dev/null)
CXX_FILES := $(filter %.h %.cc %.cu %.cuh,$(SOURCES))
ADDRESS := address,undefined
SANITIZERS := thread $(ADDRESS)

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
# The CMake and ninja of .venv, not the system's.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# For every build that pip starts: warnings stop it, and the tests of the engine are configured in
# the same tree, so that they and the extension share one engine.
export CMAKE_ARGS := -DASYNCOPT_WERROR=ON -DASYNCOPT_TESTS=ON

say = @printf '\n==> %s\n' "$(1)"

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

# Whoever only wants to see it run may have a compiler that warns of more than ours does.
.PHONY: demo
demo: CMAKE_ARGS := -DASYNCOPT_TESTS=ON
demo: $(VENV)/.cli build ## train real models under every sync; report in build/demo
	$(call say,asyncopt compare: report in $(OUT))
	@$(BIN)/asyncopt compare --out $(OUT)

# Which Python tests run, and the seconds that one test may take.
MARK := not long
TIMEOUT := 300

.PHONY: check
check: MARK := not slow and not long
check: lint types test-cpp test-py ## before a commit: linters, types, C++ tests, the quick Python tests

.PHONY: test
test: lint types test-cpp test-py test-sanitized test-python-address wheel-check docs ## everything that CI runs

.PHONY: test-long
test-long: export ASYNCOPT_CHAOS := long
test-long: MARK :=
test-long: TIMEOUT := 14400
test-long: test-cpp test-py ## hours: the C++ and Python tests with 10 to 200 times as many kills and generated inputs

.PHONY: build
build: $(VENV)/.core ## (re)build the extension in place

.PHONY: deps
deps: $(VENV)/.dev build ## everything that developers need, in .venv

.PHONY: lint
lint: $(VENV)/.dev
	$(call say,ruff and clang-format)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet --diff
	@$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

.PHONY: types
types: $(VENV)/.dev
	$(call say,mypy)
	@$(BIN)/mypy

.PHONY: test-cpp
test-cpp: $(VENV)/.dev build ## C++ tests of the engine
	$(call say,C++ tests)
	@tree=build/cmake-$$($(BIN)/python -c 'import sys; print(sys.implementation.cache_tag)'); \
	cmake --build $$tree -- --quiet && $(call ctest,$$tree)

.PHONY: test-sanitized
test-sanitized: $(SANITIZERS:%=test-%) ## the same under sanitizers

.PHONY: $(SANITIZERS:%=test-%)
$(SANITIZERS:%=test-%): test-%: $(VENV)/.dev
	$(call say,C++ tests under the sanitizer $*)
	@cmake -S . -B build/$* -G Ninja --log-level=WARNING -DASYNCOPT_SANITIZE=$* \
		-DASYNCOPT_PYTHON=OFF $(CMAKE_ARGS) >/dev/null
	@cmake --build build/$* -j 2 -- --quiet && $(call ctest,build/$*)

# The extension with the sanitized engine, in a copy of the tree. The sanitizer's library comes first
# in the process, and the one whose exceptions it watches at once after it.
.PHONY: test-python-address
test-python-address: $(VENV)/.dev ## generated input to the extension under the address sanitizer
	$(call say,generated input to the extension under the sanitizer $(ADDRESS))
	@cmake -S . -B build/$(ADDRESS) -G Ninja --log-level=WARNING -DASYNCOPT_SANITIZE=$(ADDRESS) \
		-DASYNCOPT_PYTHON=ON -DPython_EXECUTABLE=$$(command -v python) $(CMAKE_ARGS) >/dev/null
	@cmake --build build/$(ADDRESS) --target _core -j 2 -- --quiet
	@rm -rf build/python-address && mkdir build/python-address
	@cp -r asyncopt tests pyproject.toml build/python-address
	@rm -f build/python-address/asyncopt/*.so
	@cp build/$(ADDRESS)/_core*.so build/python-address/asyncopt
	@cd build/python-address && ASAN_OPTIONS=detect_leaks=0 \
		LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
		$$(setarch -R true 2>/dev/null && echo setarch -R) \
		python -m pytest -q tests/sparse/test_generated_input.py

ctest = ctest --test-dir $(1) -j 2 --timeout $(TIMEOUT) --output-on-failure --no-tests=error

.PHONY: test-py
test-py: $(VENV)/.dev $(VENV)/.spin build ## Python tests; make test-py ARGS="-k name" picks some
	$(call say,pytest)
	@$(BIN)/python -m pytest -q -n logical --maxprocesses 8 --dist worksteal -m "$(MARK)" \
		-o faulthandler_timeout=$(TIMEOUT) $(ARGS)

.PHONY: bench
bench: $(VENV)/.bench build ## benchmarks
	$(call say,benchmarks)
	@$(BIN)/python -m pytest benches -q $(ARGS)

.PHONY: docs
docs: $(VENV)/.dev ## the documentation as web pages, in build/docs; a broken link is an error
	$(call say,documentation)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

.PHONY: format
format: $(VENV)/.dev ## rewrite the sources in the project's format
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet
	@$(BIN)/clang-format -i $(CXX_FILES)

.PHONY: wheel
wheel: $(VENV)/.dev ## source distribution, and a wheel built from it, in dist/
	$(call say,source distribution and wheel)
	@rm -rf dist
	@CMAKE_ARGS= $(BIN)/python -m build --outdir dist
	@ls -1 dist

# An installed wheel, away from the checkout, has every module and the files beside them.
.PHONY: wheel-check
wheel-check: $(VENV)/.dev build
	$(call say,wheel)
	@rm -rf build/wheel build/lib.* build/bdist.*
	@$(PIP) wheel -qq --no-deps --no-build-isolation -w build/wheel .
	@$(PIP) install -qq --no-deps --no-compile --target build/wheel/site build/wheel/*.whl
	@diff <(find asyncopt -type f ! -name '*.so' ! -path '*/__pycache__/*' | sort) \
		<(cd build/wheel/site && find asyncopt -type f ! -name '*.so' | sort)
	@cd build/wheel/site && $(CURDIR)/$(BIN)/python -c 'import asyncopt, os; \
		assert asyncopt._core.__file__.startswith(os.getcwd()), asyncopt._core.__file__'

.PHONY: clean
clean: ## remove what was built, but not .venv
	rm -rf build dist *.egg-info asyncopt/*.so .benchmarks .hypothesis .mypy_cache .pytest_cache \
		.ruff_cache $(VENV)/.core
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## remove .venv as well
	rm -rf $(VENV)

$(VENV)/.created:
	$(call say,virtual environment in $(VENV))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON): expected Python 3.11 or newer; set PYTHON=, as in: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON): has no venv module; install it (Debian: apt-get install python3-venv)"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.build-tools: $(VENV)/.created constraints.txt
	$(call say,build tools)
	@$(INSTALL) setuptools pybind11 cmake ninja
	@touch $@

# For tests/test_models.py, which are skipped without it: the system's, or Debian's package in .venv.
$(VENV)/.spin: $(VENV)/.created
	@(command -v spin || (cd $(VENV) && apt-get download -qq spin && dpkg -x spin_*.deb spin && \
		ln -sf ../spin/usr/bin/spin bin/spin)) >/dev/null 2>&1 && touch $@ || \
		echo "spin cannot be had: the models of the protocols are not checked (apt install spin)"

# Also builds the extension; pip's own output would hide what matters, so it is quiet.
$(VENV)/.cli $(VENV)/.bench $(VENV)/.dev: $(VENV)/.%: $(VENV)/.build-tools pyproject.toml
	$(call say,torch and the other dependencies ($*) with the extension; some minutes the first time)
	@$(INSTALL) --no-build-isolation -e '.[$*]'
	@touch $@

$(VENV)/.core: $(VENV)/.build-tools setup.py CMakeLists.txt $(SOURCES)
	$(call say,extension)
	@$(INSTALL) --no-build-isolation --no-deps -e .
	@touch $@
