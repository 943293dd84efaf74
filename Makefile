# Everything that a person or CI runs. The first target is the default.
#
# All cargo calls use one profile and one feature set, so that each dependency is compiled once; `bench` alone is
# optimised.

CARGO ?= cargo
# Tests start daemons and processes of their own; more at once than this, and two cores only make them wait.
export RUST_TEST_THREADS ?= 4

.DEFAULT_GOAL := help
.PHONY: help quickstart test lint bench soak

help: ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

quickstart: ## start a daemon, lease a cascade, use it over gRPC, give it back (needs Rust, a C compiler, git, make)
	$(CARGO) run --locked --quiet -- quickstart

test: ## set up what the tests need, then run every test
	.ci/tools test
	$(CARGO) test --locked

lint: ## set up the linters, then formatting, clippy, docs, shell, protos, dependencies
	.ci/tools lint
	.ci/lint

bench: ## set up what is measured beside, then the table of speed and memory: bound, measured, verdict
	.ci/tools bench
	$(CARGO) bench --locked --bench drydock

# Minutes of `make soak`.
SOAK_MINUTES ?= 10
soak: ## four daemons on one PostgreSQL under fire for SOAK_MINUTES (10), then the report; DRYDOCK_FIRE_SEED replays
	.ci/tools test
	$(CARGO) build --locked --profile soak --target-dir target
	DRYDOCK_FIRE_DAEMON=$(CURDIR)/target/soak/drydock DRYDOCK_FIRE_CALLERS=100 DRYDOCK_FIRE_SECONDS=$$(($(SOAK_MINUTES) * 60)) $(CARGO) test --locked --test it -- --exact --nocapture \
		fire::storm::no_place_is_held_twice_and_nothing_is_lost_or_left
