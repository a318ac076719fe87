# mailfront: the two commands are `make demo` and `make test`. Both make their own environment in .venv.
# `make bench` measures it beside other servers.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps

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
bench: $(STAMPS)/bench
	tests/install-packages
	$(BIN)/python -m tests.perf --json bench.json --plots bench-plots $(BENCH_ARGS)

bench-growth: $(STAMPS)/bench
	tests/install-packages
	$(BIN)/python -m tests.perf.growth --json bench-growth.json --plots bench-plots $(GROWTH_ARGS)

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

$(STAMPS)/bench: $(STAMPS)/dev
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev,bench]'
	@touch $@

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
