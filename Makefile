# The two commands to know: `make demo` (see it work) and `make test`. Everything lands in .venv and build/.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
DEMO ?= experiments/az-failure.json
POLICY ?= /usr/sbin/policy-rc.d
SYSTEM_PATH ?= /usr/local/sbin:/usr/sbin:/sbin

.PHONY: demo test check bench survival wheel clean
.DELETE_ON_ERROR:

demo: .venv/.users
	$(BIN)/chaos run $(DEMO)

test: .venv/.developers
	$(BIN)/python -m pytest -m "not survival" -n 2 tests/runs
	$(BIN)/python -m pytest -m "not survival" --ignore tests/runs

survival: .venv/.developers
	$(BIN)/python -m pytest -m survival

check: .venv/.developers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src/aftershock actions probes
	@# The agent runs on Python 3.9; mypy begins at 3.10, so vermin looks for what 3.9 lacks.
	$(BIN)/mypy --python-version 3.10 src/aftershock/agent
	$(BIN)/ruff check --target-version py39 --select E9,F src/aftershock/agent
	$(BIN)/vermin -q -t=3.9- --violations --no-tips src/aftershock/agent
	$(BIN)/python -m pytest -q tests/test_tidy.py

bench: .venv/.developers
	$(BIN)/python -m benchmarks

wheel: .venv/.developers
	$(BIN)/python -m build --wheel --outdir build/wheel .

clean:
	rm -rf .venv build *.egg-info src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f journal.json chaostoolkit.log discovery.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.users: pyproject.toml | build/system
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "aftershock needs Python 3.11 or newer; $(PYTHON) is older: set PYTHON=python3.11"; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/.developers: .venv/.users
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

# Only what is absent is installed. Debian starts haproxy's service on installation, and on every boot
# from then on; ours must not: a policy that forbids starting services stands in the way for as long
# as apt runs, and the service is disabled after it.
build/system:
	@mkdir -p build; missing=""; export PATH="$$PATH:$(SYSTEM_PATH)"; \
	command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON): install Python 3.11 or newer"; exit 1; }; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	command -v ip >/dev/null && command -v tc >/dev/null || missing="$$missing iproute2"; \
	command -v haproxy >/dev/null || missing="$$missing haproxy"; \
	echo '#include <stdlib.h>' | cc -E -xc - >/dev/null 2>&1 || missing="$$missing gcc libc6-dev"; \
	command -v nsenter >/dev/null || missing="$$missing util-linux"; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" != 0 ]; then echo "missing:$$missing; install them as root: sudo apt-get install$$missing"; exit 1; fi; \
	  command -v apt-get >/dev/null || { echo "missing:$$missing (as Debian names them); install them"; exit 1; }; \
	  echo "installing from Debian:$$missing"; \
	  if [ ! -e $(POLICY) ]; then trap 'rm -f $(POLICY)' EXIT; \
	    printf '#!/bin/sh\nexit 101\n' > $(POLICY); chmod 755 $(POLICY); fi; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -qq -y --no-install-recommends $$missing; } >build/apt.log 2>&1 \
	    || { tail -n 5 build/apt.log; exit 1; }; \
	  case "$$missing" in *haproxy*) \
	    { systemctl disable --now haproxy || update-rc.d haproxy disable; } >/dev/null 2>&1 || true;; \
	  esac; \
	  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "$(PYTHON) has no venv of its own: install the package that brings it"; exit 1; }; \
	fi; touch $@
