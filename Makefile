# Every routine of pg_crm. `make` alone lists them.
#
# Only `make install` touches the PostgreSQL that the system runs. Everything else installs its builds into private copies
# of it (tests/bin/private-postgres) and starts clusters of its own from there.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# The PostgreSQL that all is built for and tried on: 15, 16, 17 or 18.
PG ?= 15
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))

# As root the server runs as the user postgres, who may not be allowed to look into this tree.
ifeq ($(shell id -u),0)
PRIVATE := /var/tmp/pg_crm-$(shell echo $(TARGET) | cksum | cut -d' ' -f1)
else
PRIVATE := $(TARGET)/postgres
sudo := --sudo
endif
copies := $(PRIVATE)/$(PG)

# Debian 12 has 15, and .ci/postgresql brings the others, without installing them.
system_home := $(or $(PG_HOME),/usr/lib/postgresql/$(PG))
ifeq ($(PG),15)
PG_HOME ?= /usr/lib/postgresql/15
else
PG_HOME ?= $(PRIVATE)/servers/postgresql-$(PG)
export PGRX_HOME := $(copies)/pgrx
version := --no-default-features --features pg$(PG)
endif
install: PG_HOME = $(system_home)

export PG PG_HOME
export CARGO_TARGET_DIR := $(TARGET)
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)
# The framework of the #[pg_test]s cannot do without.
export USER ?= $(shell id -un)

all := lint unit fuzz pg_test regress suites clients monitoring
# What no version of PostgreSQL changes is tried with 15.
parts := $(if $(filter 15,$(PG)),$(all),lint pg_test regress suites)
clusters := regress suites clients demo monitor soak requests

# pgrx is compiled once for the tests and the library alike: with the same rustflags (build.rs says more), and with the
# features that dev-dependencies ask for (--examples brings them in; there are no examples).
export CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND := 1
build pg_test $(clusters): export PGRX_BUILD_FLAGS := --examples

# The crates without PostgreSQL; the simulator is always built along with them, so that features resolve one way.
plain := -p crm-domain -p crm-provider -p crm-sim -p crm-structure

# Scenarios wait more than they work: for a commit, a turn of the worker, a clock of theirs.
threads := $(shell echo $$((2 * $$(nproc))))

# What the scripts under tests/ and benches/ run on.
build $(clusters): export PG_CONFIG := $(copies)/dev/lib/postgresql/$(PG)/bin/pg_config
build $(clusters): export CRM_SIM := $(TARGET)/debug/crm-sim
bench: export PG_CONFIG := $(copies)/release/lib/postgresql/$(PG)/bin/pg_config
bench: export CRM_SIM := $(TARGET)/release/crm-sim

# Where versions of PostgreSQL may differ: what the worker, the triggers and the functions do with tables.
core := write_back real_time lifecycle mapping

.PHONY: help setup build install test $(all) $(clusters) pg16 pg17 pg18 bench sim clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z_0-9 ]*:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing: Debian's packages, cargo-pgrx, cargo-deny
	@.ci/setup

build: setup ## build the extension with fail points, and the simulator, for the tests and the demo
	@tests/bin/private-postgres $(copies)/dev
	@cargo build $(plain) --bins --examples
	@cargo pgrx install $(version) --features failpoints --pg-config $(PG_CONFIG)

install: setup ## build for release and install into the system's PostgreSQL (PG=15)
	@$(MAKE) PG_HOME=$(PG_HOME) $(PG_HOME)/lib/pg_crm.so

sources := $(wildcard Cargo.toml Cargo.lock rust-toolchain.toml build.rs pg_crm.control) $(shell find src sql -type f)

$(PG_HOME)/lib/pg_crm.so: $(sources)
	cargo pgrx install --release $(sudo) --pg-config $(PG_HOME)/bin/pg_config

demo: build ## the main job on real data, from a table to the CRMs (KEEP=1 leaves the cluster running)
	@tests/demo/run

monitor: build ## the demo, left running, with the monitoring page of its worker
	@KEEP=1 MONITOR=$${MONITOR:-127.0.0.1:9187} tests/demo/run

test: setup ## run all of lint unit fuzz pg_test regress suites clients monitoring, with one summary (PG=16, 17 or 18 for that PostgreSQL; ALSO='pg16 pg18')
	@.ci/test $(parts) $(ALSO)

pg16 pg17 pg18: ## build for that PostgreSQL, and run the SQL tests and the suites where it may differ
	@env -u PG_HOME -u PGRX_HOME $(MAKE) regress suites PG=$(@:pg%=%) SUITES='$(core)'

lint: setup ## rustfmt, clippy for every set of features, shellcheck, dependencies
	cargo clippy --workspace --all-targets $(version) -- -D warnings
	cargo clippy --workspace --all-targets $(version) --features failpoints -- -D warnings
	cargo clippy --workspace --all-targets $(version) --features pg_test -- -D warnings
ifeq ($(PG),15)
	cargo fmt --all --check
	grep -rlI --exclude-dir=target --exclude-dir=.venv '^#!.*bash' .ci tests fuzz $(wildcard benches) | xargs shellcheck
	.ci/deny
endif

unit: setup ## tests of the domain, the providers, the simulator and the layers of the tree, without PostgreSQL
	cargo test $(plain)

fuzz: setup ## what is read from outside and written to it, with the inputs of its corpus; FUZZ_SECONDS=N looks for new ones (TEST=target)
	fuzz/run $(TEST)

pg_test: setup ## tests inside a PostgreSQL backend (TEST=name for some of them)
	.ci/pg_test $(copies)/pg_test $(TEST)

regress: build ## SQL tests, output compared with tests/regress/expected (TEST=name for some of them)
	tests/regress/run $(TEST)

suites: build ## suites against real clusters and the simulator (TEST=name, SUITES=file for some of them)
	cargo test -p crm-suites $(SUITES:%=--test %) --no-fail-fast -- --test-threads=$(threads) $(TEST)

clients: build ## the vendors' own client libraries against the simulator
	tests/clients/run

monitoring: setup ## the alert rules and the configuration for Prometheus, with its own promtool
	tests/monitoring/run

requests: build ## how many requests a thousand records take of each CRM, as docs/providers.md has them
	tests/bin/requests

bench: setup ## measure, in ratios; not part of test
	tests/bin/private-postgres $(copies)/release
	cargo build --release -p crm-sim
	cargo pgrx install --release --pg-config $(PG_CONFIG)
	benches/run

sim: setup ## run the simulated CRMs on ports 4101 to 4107 until interrupted
	@cargo build --quiet $(plain) --bins --examples
	@echo 'Salesforce  http://127.0.0.1:4101'
	@echo 'HubSpot     http://127.0.0.1:4102'
	@echo 'Pipedrive   http://127.0.0.1:4104'
	@echo 'Zoho        http://127.0.0.1:4105'
	@echo 'Dynamics    http://127.0.0.1:4106'
	@echo 'Composio    http://127.0.0.1:4107'
	@echo 'admin       http://127.0.0.1:4103   (GET /requests, GET /objects/salesforce/Account, POST /faults, ...)'
	@echo 'More: $(TARGET)/debug/crm-sim --help. Ctrl-C ends it.'
	@exec $(TARGET)/debug/crm-sim --salesforce 127.0.0.1:4101 --hubspot 127.0.0.1:4102 --pipedrive 127.0.0.1:4104 --zoho 127.0.0.1:4105 --dynamics365 127.0.0.1:4106 --composio 127.0.0.1:4107 --admin 127.0.0.1:4103

soak: build ## the long-running suites that test leaves out, and fuzzing (FUZZ_SECONDS=300 per target; FUZZ_SECONDS=0 for none)
	[ '$(FUZZ_SECONDS)' = 0 ] || FUZZ_SECONDS=$(or $(FUZZ_SECONDS),300) fuzz/run
	cargo test -p crm-suites -- --ignored --nocapture --test-threads=1 $(TEST)

clean: ## remove what was built, here and in the private copies of PostgreSQL
	cargo clean
	rm -rf $(PRIVATE)
