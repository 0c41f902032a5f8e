# The two commands to know: `make demo` (see it work) and `make test`. Everything lands in .venv and build/.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
DEMO ?= experiments/az-failure.json
PYTEST := $(BIN)/python -m pytest -m
SHORT := not survival and not timed
GUESTS := tests/kernel tests/packaging/test_guest.py
# Under another name, or `make -n` would run the lines with it.
AGAIN := $(MAKE) --no-print-directory
POLICY ?= /usr/sbin/policy-rc.d
SYSTEM_PATH ?= /usr/local/sbin:/usr/sbin:/sbin

.PHONY: demo test runs check bench gpu survival wheel clean
.DELETE_ON_ERROR:

demo: .venv/.users
	$(BIN)/chaos run $(DEMO)

# All of a part, whatever fails: many tests wait more than they work, so there are more workers than
# cores, and the guests beside them, shown when they have ended.
define PART
	$(AGAIN) guests WHICH="$(1)" >build/guests.log 2>&1 & guests=$$!; \
	$(PYTEST) "$(SHORT) and $(1)" -n $(2) --dist worksteal $(addprefix --ignore=,$(GUESTS)) || status=$$?; \
	wait $$guests || status=$$?; cat build/guests.log
endef

# What measures time (`timed`) comes last and alone: it waits more than it works, so two files at once.
test: developers
	@status=0; $(call PART,not whole,3); \
	$(PYTEST) timed tests/load -n 2 --dist loadfile || status=$$?; \
	exit $$status

# What `make test` has a sample of: whole runs of every experiment, and the other kernel.
runs: developers
	@status=0; \
	$(AGAIN) build/newer-python >build/newer-python.log 2>&1 & newer=$$!; \
	$(call PART,whole,3); \
	wait $$newer || status=$$?; cat build/newer-python.log; \
	exit $$status

.PHONY: guests
guests: build/guest/ready
	$(PYTEST) "$(SHORT) and $(WHICH)" $(GUESTS)

# On a machine with an NVIDIA GPU that nobody uses; what needs PyTorch is skipped where it isn't installed.
gpu: developers
	$(BIN)/python -m pytest -s tests/gpu

survival: developers build/guest/ready build/guest/ordinary-ready
	@status=0; \
	$(PYTEST) survival tests/kernel >build/guests.log 2>&1 & guests=$$!; \
	$(PYTEST) survival --ignore=tests/kernel || status=$$?; \
	wait $$guests || status=$$?; cat build/guests.log; exit $$status

check: .venv/.developers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src/aftershock actions probes
	@# The agent runs on Python 3.9; mypy begins at 3.10, so vermin looks for what 3.9 lacks.
	$(BIN)/mypy --python-version 3.10 src/aftershock/agent
	$(BIN)/ruff check --target-version py39 --select E9,F src/aftershock/agent
	$(BIN)/vermin -q -t=3.9- --violations --no-tips src/aftershock/agent
	$(BIN)/python -m pytest -q tests/test_tidy.py

bench: developers
	$(BIN)/python -m benchmarks

wheel: .venv/.developers
	$(BIN)/python -m build --wheel --outdir build/wheel .

clean:
	rm -rf .venv build *.egg-info src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f journal.json chaostoolkit.log discovery.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

define VENV
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "aftershock needs Python 3.11 or newer; $(PYTHON) is older: set PYTHON=python3.11"; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
endef

# What is installed as editable isn't compiled by pip, and where PYTHONDONTWRITEBYTECODE is set every
# process would do it anew.
COMPILE := @$(BIN)/python -m compileall -q src

.venv/.users: pyproject.toml | build/system
	$(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	$(COMPILE)
	touch $@

# apt and pip work side by side.
.PHONY: developers
developers:
	@$(AGAIN) --jobs=2 .venv/.developers build/developers

# At once, not on top of the users' packages: to resolve them twice takes half a minute.
.venv/.developers: pyproject.toml | build/system
	$(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	$(COMPILE)
	touch .venv/.users $@

# Kernels with netem for tests/kernel, where this machine's own has none. What can't be had is told,
# and its tests are skipped.
build/guest/ready: tests/kernel/fetch.py tests/kernel/init.sh | .venv/.developers
	@$(BIN)/python -m tests.kernel.fetch build/guest

build/guest/ordinary-ready: build/guest/ready
	@$(BIN)/python -m tests.kernel.fetch build/guest ordinary

# Only what is absent is installed. Debian starts a service on its installation, and on every boot
# from then on; ours must not: a policy that forbids starting services stands in the way for as long
# as apt runs, and the service is disabled after it.
define INSTALL
	  command -v apt-get >/dev/null || { echo "missing:$$missing (as Debian names them); install them"; exit 1; }; \
	  echo "installing from Debian:$$missing"; \
	  if [ ! -e $(POLICY) ]; then trap 'rm -f $(POLICY)' EXIT; \
	    printf '#!/bin/sh\nexit 101\n' > $(POLICY); chmod 755 $(POLICY); fi; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -qq -y --no-install-recommends $$missing; } >build/apt.log 2>&1 \
	    || { tail -n 5 build/apt.log; exit 1; }; \
	  for service in haproxy:haproxy openssh-server:ssh cron:cron; do case "$$missing" in *$${service%:*}*) \
	    { systemctl disable --now $${service#*:} || update-rc.d $${service#*:} disable; } \
	      >/dev/null 2>&1 || true;; \
	  esac; done
endef

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
$(INSTALL); \
	  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "$(PYTHON) has no venv of its own: install the package that brings it"; exit 1; }; \
	fi; touch $@

# The tests of the newer Chaos Toolkit want it: prepared before tests run in networks of their own.
.PHONY: build/newer-python
build/newer-python: | .venv/.developers
	@$(BIN)/python -m tests.runs.newer_python

# What only tests and benchmarks want: they run an sshd and a cron of their own, and fio, make volumes,
# open the report in a browser, and are compared with wrk and hey. Without these they are skipped.
build/developers: | build/system
	@missing=""; export PATH="$$PATH:$(SYSTEM_PATH)"; \
	command -v sshd >/dev/null && command -v ssh-keygen >/dev/null || missing="$$missing openssh-server"; \
	command -v cron >/dev/null || missing="$$missing cron"; \
	command -v sudo >/dev/null || missing="$$missing sudo"; \
	command -v fio >/dev/null || missing="$$missing fio"; \
	command -v mkfs.ext4 >/dev/null || missing="$$missing e2fsprogs"; \
	command -v dmsetup >/dev/null || missing="$$missing dmsetup"; \
	command -v wrk >/dev/null || missing="$$missing wrk"; \
	command -v hey >/dev/null || missing="$$missing hey"; \
	command -v chromium >/dev/null || command -v google-chrome >/dev/null || missing="$$missing chromium"; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" != 0 ]; then echo "missing:$$missing; tests that need them are skipped"; exit 0; fi; \
$(INSTALL); \
	fi; touch $@
