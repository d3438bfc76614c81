# Needs Python 3.11 or newer and make; everything else is installed into .venv.
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3; do \
	if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo "$$name"; break; fi; done)
BIN := .venv/bin
INSTALL = if command -v uv >/dev/null 2>&1; then VIRTUAL_ENV=.venv uv pip install -q -c constraints.txt $(1); \
	else $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt $(1); fi

.PHONY: help setup run demo test check bench chaos clean

help:
	@echo "make run     start carebell on embedded defaults (data in ./var)"
	@echo "make demo    the same with a simulated neighbourhood, carrier and platform, in a folder of its own"
	@echo "make test    everything that proves it works; installs what the tests need"
	@echo "make check   ruff, mypy --strict and the import test alone"
	@echo "make bench   the figures of benchmarks/README.md, measured here"
	@echo "make chaos   the long proofs: kill -9 at 100 moments, power cuts, fuzzing"

setup: .venv/installed

.venv/created:
	@test -n "$(PYTHON)" || { echo "carebell needs Python 3.11 or newer" >&2; exit 1; }
	@if command -v uv >/dev/null 2>&1; then uv venv -q --allow-existing --python "$(PYTHON)" .venv; else "$(PYTHON)" -m venv .venv; fi
	@touch $@

.venv/installed: .venv/created pyproject.toml constraints.txt
	@$(call INSTALL,-e .)
	@touch $@

# Judges of other authors whose own requirements are not wanted: one that cannot be built any more, and a framework.
JUDGES := dc09-spt labmcp-ble-health

.venv/installed-test: .venv/installed
	@$(call INSTALL,-e '.[test]')
	@$(call INSTALL,--no-deps $(JUDGES)) || echo 'Not installed: $(JUDGES). The tests that ask them are skipped.' >&2
	@touch $@

run: .venv/installed
	@exec $(BIN)/carebell run

.venv/installed-demo: .venv/installed
	@$(call INSTALL,-e '.[twilio]')
	@touch $@

demo: .venv/installed-demo
	@exec $(BIN)/carebell simulate demo

check: .venv/installed-test
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy
	@$(BIN)/pytest -q -p no:randomly tests/unit/test_architecture.py

test: check
	@sh scripts/install-test-peers
	@# The same examples every time (`make chaos` draws new ones); a file at a time for each of four workers, who mostly wait.
	@$(BIN)/pytest -q -n 4 --dist loadfile --hypothesis-seed=11

bench: .venv/installed-test
	@$(BIN)/carebell bench all

chaos: .venv/installed-test
	@sh scripts/install-test-peers
	@$(call INSTALL,-e '.[test,fuzz]') || echo 'no atheris for this machine: the codecs are not fuzzed'
	@CAREBELL_CHAOS=long $(BIN)/pytest -q --timeout 3600 tests/chaos tests/properties

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
