# Every target sets up .venv by itself (.ci/setup); nothing has to be installed by hand before.
SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules

python := .venv/bin/python
# Two tests at a time: the product's smallest machine has two cores. `make test ARGS="-k ledger"` passes options on.
pytest := $(python) -m pytest -n 2 --dist loadgroup
ARGS ?=

.PHONY: help setup demo test check bench bench-quick proof reference lock image image-lock lab lab-long clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

setup: ## Make .venv from requirements.lock (the other targets do it by themselves)
	@.ci/setup

demo: setup ## A branch's day with the line cut: hub, box, outage, kill, restart, sync, report
	@.venv/bin/edgegw demo $(ARGS)

test: setup ## All tests but the slow ones
	@$(pytest) $(ARGS)

check: setup ## Linter, formatter, types, layers and documents
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@$(python) -m pytest -q tests/tidy tests/docs

bench: setup ## The product and its peers side by side, in turns; ARGS="--only http --seconds 5 --json FILE"
	@.ci/setup-bench
	@$(python) -m tests.bench $(ARGS)

bench-quick: setup ## The same within five minutes: short rounds, without the long groups
	@.ci/setup-bench
	@$(python) -m tests.bench --quick $(ARGS)

proof: setup ## All long runs, resumable: what is lost, doubled, created or altered unseen; writes tests/RESULTS.md
	@$(python) -m tests.proof $(ARGS)

reference: setup ## Write REFERENCE.md from the code
	@$(python) -m edgegw.references

# No address of a package index is written, so that the lock serves whatever index the user's pip is set to.
lock: setup ## Pin the newest versions that pyproject.toml allows, with hashes, for Python 3.11 to 3.13
	@UV_CUSTOM_COMPILE_COMMAND='make lock' .venv/bin/uv pip compile pyproject.toml --group dev --upgrade --quiet \
		--universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --system-certs \
		--output-file requirements.lock
	@UV_CUSTOM_COMPILE_COMMAND='make lock' .venv/bin/uv pip compile pyproject.toml --constraint requirements.lock --quiet \
		--python-version 3.13 --python-platform x86_64-manylinux_2_40 --only-binary :all: --no-annotate \
		--generate-hashes --no-emit-index-url --no-emit-find-links --system-certs --output-file firmware/locks/runtime.txt
	@UV_CUSTOM_COMPILE_COMMAND='make lock' .venv/bin/uv pip compile ansible/requirements.in --upgrade --quiet \
		--universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --system-certs \
		--output-file ansible/requirements.txt
	@UV_CUSTOM_COMPILE_COMMAND='make lock' .venv/bin/uv pip compile tests/bench/requirements.in --upgrade --quiet \
		--universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --system-certs \
		--output-file tests/bench/requirements.txt

image-lock: setup ## Lock today's versions of Debian's packages for the image, with hashes
	@.ci/setup-image
	@$(python) -m firmware lock

image: setup ## The appliance's image and its bundle for updates, in build/out; PROFILE=hardware for a branch server
	@.ci/setup-image
	@$(python) -m firmware image $(or $(PROFILE),cloud)

# What .ci/setup-image cannot install is missing, and the tests that need it say so.
lab: setup ## The appliance in a virtual machine, its units, a fleet: what the machine can run of it, as root
	-@.ci/setup-image
	@$(pytest) -m lab tests/lab $(ARGS)

lab-long: setup ## What takes longer in the lab: all that must be refused, CUTS=200 power cuts, builds that are compared
	-@.ci/setup-image
	@$(python) -m pytest -m lab_long tests/lab $(ARGS)

clean: ## Remove the virtual environment, caches and what the demo left
	@# What an ordinary user built belongs to sub-ids.
	@rm -rf build 2>/dev/null || unshare --map-root-user --map-auto rm -rf build
	@rm -rf .venv .venv-ansible .venv-bench .setup-lock .mypy_cache .pytest_cache .ruff_cache .hypothesis .schemathesis demo-run proof-run dist
	@find edgegw tests -name __pycache__ -type d -prune -exec rm -rf {} +
