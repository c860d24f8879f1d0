# make run    build into .venv and start the server          make test   build and run every test and quality gate
# make build  build into .venv                               make bench  the benchmarks, Rust and Python
# make fmt    format everything                              make lint   the quality gates without the tests
# make torture  an hour of faults and power cuts, as root; SECONDS=600 SEEDS=7,8 say how long and with which seeds
# make wheel  the wheels that a release ships, into dist/    make clean  remove what was built; mail and queue stay
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUST   := $(shell find src -name '*.rs') Cargo.toml $(wildcard Cargo.lock)
INPUTS := $(RUST) pyproject.toml
# Workers of pytest: twice the machine's cores, because many tests wait for another process.
JOBS   ?= $(shell $(PYTHON) -c 'import os; print(2 * (os.cpu_count() or 1))')
DIST   ?= dist
LINUX  := $(filter Linux,$(shell uname))
# With `ldap` the tests of LDAP run too; bonsai is compiled, with libldap-dev and libsasl2-dev.
EXTRAS  ?= mta,test
SECONDS ?= 3600
SEEDS   ?= 1,2,3

# Tests start the program hundreds of times; without compiled modules each start takes a third longer.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run build test bench torture fmt lint docs-check wheel clean
.DEFAULT_GOAL := build

# Pip's build isolation brings maturin; the install is editable, so that Python changes need no second build.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "ironpost needs Python 3.11 or later; say make PYTHON=python3.11")'
	@command -v cargo >/dev/null || { echo "ironpost needs Rust: no cargo in PATH" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/built-mta: $(INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[mta]'
	@touch $@

$(VENV)/built-test: $(INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $(VENV)/built-mta $@

build: $(VENV)/built-mta

run: $(VENV)/built-mta
	@exec $(BIN)/ironpost serve

lint: $(VENV)/built-test
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
	cargo clippy --quiet --all-targets --features python -- -D warnings
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The wire tests run both implementations side by side by themselves. The conversation is run a second time over the
# pure twin, but for tests of what does not import the wire. The whole suite comes last, so that its summary is the last
# line.
test: lint
	cargo test --quiet
	IRONPOST_WIRE=pure $(BIN)/python -m pytest -q -n $(JOBS) --ignore=tests/protocol/sasl/test_mechanisms.py tests/protocol tests/server tests/client tests/security tests/scenarios
	IRONPOST_WIRE=native IRONPOST_REQUIRE_NATIVE=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations=10

bench: $(VENV)/built-test
	cargo bench
	$(BIN)/python -m pytest benches -p no:xdist --benchmark-only --benchmark-group-by=group --benchmark-columns=min,median,ops

torture: $(VENV)/built-test
	$(BIN)/python tests/crash/torture.py --seconds $(SECONDS) --seeds $(SEEDS)

fmt: $(VENV)/built-test
	cargo fmt
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs-check: $(VENV)/built-test
	$(BIN)/python -m pytest -q tests/architecture

# The native wheel, for any Linux since 2014 where this is Linux (zig links for the older glibc), and the one without
# native code, which pip takes where there is no other.
wheel:
	$(PYTHON) -m venv $(VENV)/wheel
	$(VENV)/wheel/bin/python -m pip install --quiet --disable-pip-version-check 'maturin$(LINUX:%=[zig])>=1.9,<2'
	PATH="$(CURDIR)/$(VENV)/wheel/bin:$$PATH" maturin build --quiet --release $(LINUX:%=--zig --compatibility manylinux2014) --out $(DIST)
	$(VENV)/wheel/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(DIST) ./python
	@ls $(DIST)/*.whl

clean:
	rm -rf $(VENV) target dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find python tests benches -name __pycache__ -type d -prune -exec rm -rf {} +
	find python -name '*.so' -delete
