# The everyday commands; each is one line of shell or a script that explains itself with --help.
# Most need `make up` once; `make test` and `make demo` bring all they need.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup up down topics demo run test unit fmt lint doc bench deny sqlx clean-local

# Addresses of what `make up` has started, unless the environment names others.
WITH_SERVICES := . scripts/lib.sh && load_env && cd "$$ROOT" &&
OFFLINE := SQLX_OFFLINE=true

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 16

setup: ## install what building and testing need (no-op when it is there)
	@scripts/setup.sh

up: ## start PostgreSQL and Kafka for this clone; addresses in .local/env
	@scripts/up.sh

down: ## stop them
	@scripts/down.sh

topics: ## create the three topics
	@scripts/kafka_topics.sh

demo: ## the whole flow on one machine (ARGS=--keep leaves the page open)
	@scripts/demo.sh $(ARGS)

run: ## all workers in one process against `make up`'s services, in shadow mode unless told otherwise
	@$(WITH_SERVICES) $(OFFLINE) cargo run --bin kylo -- run $(ARGS)

test: ## everything CI checks
	@scripts/test.sh

unit: ## the tests alone, against `make up`'s services (ARGS=name picks some)
	@$(WITH_SERVICES) $(OFFLINE) cargo test --workspace --all-features $(ARGS)

fmt: ## format the sources
	@cargo fmt --all

lint: ## clippy, warnings are errors
	@$(OFFLINE) cargo clippy --workspace --all-targets --all-features -- -D warnings

doc: ## the sources' documentation, in target/doc
	@$(OFFLINE) RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --workspace --document-private-items

bench: ## rows per second and Sheets calls, against `make up`'s services
	@$(WITH_SERVICES) $(OFFLINE) cargo bench $(ARGS)

deny: ## licences, banned crates, sources (needs cargo-deny)
	@cargo deny --all-features check licenses bans sources

sqlx: ## rebuild .sqlx after changing SQL or ddl/
	@scripts/sqlx.sh --prepare

clean-local: ## stop the services and remove their data, logs and jars
	@scripts/down.sh
	@bash -c '. scripts/lib.sh && rm -rf "$$(pg_dir)" "$$LOCAL"'
