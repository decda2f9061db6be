# What a newcomer needs: make run, make demo, make test. Each sets up what it needs; nothing must be installed before
# but Python 3.11+, make and git.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready

.PHONY: run demo test check unit interop clean help bench docs

help:
	@echo "make run     start the relay with conf/relay.yaml and print a line to paste that sends a mail"
	@echo "make demo    show the main job: rotation, caps, failover, recovery, signatures; ends by itself"
	@echo "make test    lint, types, import contracts and all tests"
	@echo "make unit    only the tests that start no programs"
	@echo "make check   only lint, types and import contracts"
	@echo "make docs    write docs/reference/ from the code"
	@echo "make bench   the relay beside Postfix and OpenDKIM; BENCH=--quick for a few minutes of it"

# The environment is rebuilt when a lock or the project file changes.
$(STAMP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=…"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

run: $(STAMP)
	@echo "Login of the demo bridge: demo / $${RELAY_DEMO_PASSWORD:-demo-password}"
	@echo "In another terminal, send a mail:"
	@echo "  $(BIN)/relay send you@example.com --user demo --password $${RELAY_DEMO_PASSWORD:-demo-password}"
	@echo "and see it in the dashboard, under Inbox:  http://127.0.0.1:8025/"
	@echo "The first start prints an admin token for it below; another one:  $(BIN)/relay token add me --role admin"
	@echo
	@exec $(BIN)/relay -c conf/relay.yaml run

demo: $(STAMP)
	@$(BIN)/python bench/demo.py

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: interop
	@$(BIN)/python -m bench.run $(BENCH)

docs: $(STAMP)
	$(BIN)/python -m docs.generate

unit: $(STAMP)
	$(BIN)/pytest -n 2 -m "not interop and not scenario"

interop: $(STAMP)
	@tests/interop/install

test: check interop
	$(BIN)/pytest -n 2 --dist worksteal

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
