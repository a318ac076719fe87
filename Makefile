# mailfront: the two commands are `make demo` and `make test`. Both make their own environment in .venv.
# `make bench` measures it beside other servers.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
# Speed is measured with the Python that a server has: the distribution's, which is built with profile-guided
# optimisation as its C servers are. One from pyenv or a plain ./configure costs a fifth more.
BENCH_PYTHON ?= $(firstword $(wildcard /usr/bin/python3) $(PYTHON))
BENCH_VENV := .venv-bench

.PHONY: demo test lint bench bench-growth check clean

demo: $(STAMPS)/demo
	$(BIN)/mailfront demo $(DEMO_ARGS)

test: $(STAMPS)/dev
	tests/install-packages
	$(BIN)/python -m tests.run

lint: $(STAMPS)/dev
	$(BIN)/python -m tests.run --lint-only

# Beside other servers, 15 minutes; then how it grows, up to 90. Both need root, and the machine for themselves.
# BENCH_ARGS="--rows new-30k,drain --rounds 1" measures less.
bench: $(BENCH_VENV)/.stamp
	$(BENCH_VENV)/bin/python -m tests.perf --json bench.json --plots bench-plots $(BENCH_ARGS)

bench-growth: $(BENCH_VENV)/.stamp
	$(BENCH_VENV)/bin/python -m tests.perf.growth --json bench-growth.json --plots bench-plots $(GROWTH_ARGS)

$(BENCH_VENV)/.stamp: pyproject.toml constraints.txt tests/install-packages
	tests/install-packages
	@$(BENCH_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(BENCH_PYTHON) is older than Python 3.11. Try: make BENCH_PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(BENCH_PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev,bench]'
	@touch $@

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "mailfront needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || \
		{ rm -rf $(VENV); echo "Python cannot make an environment. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/demo: $(STAMPS)/venv pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	@touch $@

$(STAMPS)/dev: $(STAMPS)/venv pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	@touch $@ $(STAMPS)/demo

clean:
	rm -rf $(VENV) $(BENCH_VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
