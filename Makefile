# Every command that CI runs, by the same name. `make help` lists them.
.POSIX:
SHELL := /bin/bash
CARGO ?= cargo
# What does not depend on the bus, or starts processes of its own.
ON_REDIS = --skip foreign:: --skip rehome:: --skip arrows:: --skip traces:: --skip cli:: --skip readme:: --skip docs:: --skip verdicts:: --skip canary::
# By workspace, so that what the build made is used again: with fewer crates chosen, theirs would have fewer features.
E2E = $(CARGO) test --locked -q --workspace --test e2e --
FAULTS = $(CARGO) test --locked -q --workspace --test faults --
# Together, for the same reason.
PROGRAMS = -p plexus -p plexus-conformance -p plexus-sim
SIM = $${CARGO_TARGET_DIR:-target}/debug/plexus-sim

SEEDS ?= 100
FIRST ?= 1

.PHONY: help run test build unit sim mutants e2e e2e-redis faults faults-fixed bench attacks foreign prepare connect conformance clients schemathesis lint fmt clippy docs contract audit fuzz clean

help: ## List the commands
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1\t/' | expand -t 20

run: ## Build and start gateway and worker on 127.0.0.1:8080
	$(CARGO) run --locked -q -p plexus -- up

test: prepare foreign build unit sim mutants e2e faults-fixed connect clients ## Run every test: units, the bus suite, the simulator, end to end on each bus, faults, foreign peers, the Connect suite, clients

build: ## Build the program and every test
	$(CARGO) build --locked $(PROGRAMS)
	$(CARGO) test --locked --workspace --no-run

unit: ## Unit tests and the suite that every carrier of the bus passes
	$(CARGO) test --locked -q --workspace --exclude plexus-tests

sim: ## Walk the pure cores under seeded faults; SEEDS=100, FIRST=1
	$(CARGO) build --locked -q $(PROGRAMS)
	$(SIM) --seeds $(SEEDS) --first $(FIRST)

mutants: ## Wake every planted bug in the simulator; each must be found
	$(CARGO) build --locked -q $(PROGRAMS)
	$(SIM) --bugs --seeds $(SEEDS) --first $(FIRST)

e2e: ## The whole product, on each bus in turn: Redis over TLS with the documented users, and the heart of it in every other form
	PLEXUS_TEST_BUS=memory $(E2E) --test-threads 4
	PLEXUS_TEST_BUS=strict $(E2E) --test-threads 4 --skip foreign:: --skip rehome:: --skip arrows:: --skip slow:: --skip traces:: --skip cli:: --skip readme:: --skip verdicts:: --skip canary::
	PLEXUS_TEST_BUS=redis PLEXUS_TEST_REDIS=tls $(E2E) --test-threads 4 $(ON_REDIS)
	PLEXUS_TEST_BUS=redis PLEXUS_TEST_REDIS=standalone $(E2E) --test-threads 4 topics::
	PLEXUS_TEST_BUS=redis PLEXUS_TEST_REDIS=sentinel $(E2E) --test-threads 4 topics:: rehome::
	PLEXUS_TEST_BUS=redis PLEXUS_TEST_REDIS=cluster $(E2E) --test-threads 4 topics:: rehome:: fleet::

e2e-redis: prepare build ## The whole product over Redis in every form: standalone, Sentinel, Cluster, TLS
	for form in standalone sentinel cluster tls; do \
		echo "redis: $$form"; \
		PLEXUS_TEST_BUS=redis PLEXUS_TEST_REDIS=$$form $(E2E) --test-threads 4 $(ON_REDIS) || exit 1; \
		PLEXUS_TEST_BUS=redis PLEXUS_TEST_REDIS=$$form $(E2E) --test-threads 4 rehome:: || exit 1; \
	done

faults-fixed: ## The fixed list of faults on real processes, in its small form, about two minutes
	$(FAULTS) --jobs 3

faults: prepare build ## Every fault on real processes, about 15 minutes, into docs/reliability.md; ONLY=name,… SEED=1 RUNS=1 (0: by chance)
	$(FAULTS) $(if $(ONLY),--only $(ONLY),--all) --seed $(or $(SEED),1) --seeds $(or $(RUNS),1) --out $(CURDIR)/docs/reliability.md

bench: prepare foreign ## Measure every row of docs/performance.md, about 20 minutes on a quiet machine
	@tools/rivals
	$(CARGO) build --locked --release -p plexus -p plexus-bench
	$${CARGO_TARGET_DIR:-target}/release/plexus-bench --out docs/performance.md

attacks: ## Attack a gateway for a minute in each way, and measure its other clients, about 20 minutes on a quiet machine
	$(CARGO) build --locked --release -p plexus -p plexus-bench
	$${CARGO_TARGET_DIR:-target}/release/plexus-bench attacks --out docs/reliability.md

prepare: ## Install what the tests need: redis-server
	@command -v redis-server >/dev/null || { echo "installing redis-server"; tools/install redis-server; }

foreign: ## Build the go-libp2p peer and install the js-libp2p peer, where Go and Node are there
	@tools/foreign

connect: ## The public Connect suite against the gateway's edge, in Connect, gRPC and gRPC-Web
	@CARGO="$(CARGO)" tools/conformance connect

conformance: ## Every public suite against the gateway's edge, with totals
	@CARGO="$(CARGO)" tools/conformance

clients: ## The TypeScript, Python and browser examples against a gateway
	$(CARGO) build --locked -q -p plexus
	@CARGO="$(CARGO)" tools/clients

schemathesis: ## Check a gateway against its OpenAPI document (installs schemathesis)
	$(CARGO) build --locked -q -p plexus
	@tools/schemathesis

lint: fmt clippy docs contract ## Everything that CI checks beside the tests

fmt:
	$(CARGO) fmt --all --check
	$(CARGO) fmt --check --manifest-path tests/fuzz/Cargo.toml

clippy:
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

docs:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items --workspace --exclude plexus-tests

contract: ## Check the protos: bindings, names, comments, lint
	@tools/contract

audit: ## Licences, bans and sources of the dependencies; advisories where their database can be had
	@tools/audit

fuzz: ## Run every fuzz target for SECONDS each (600), or those that TARGETS names; needs a C++ compiler
	@CARGO="$(CARGO)" tools/fuzz $(or $(SECONDS),600) $(TARGETS)

clean:
	$(CARGO) clean
