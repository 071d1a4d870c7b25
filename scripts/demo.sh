#!/usr/bin/env bash
# Usage: scripts/demo.sh [arguments of `kylo demo`]
#
# From a fresh clone to the whole flow on one machine: installs what is missing, builds, and runs
# `kylo demo`: two companies' batches arrive in their Pending tabs, a row is approved and promoted,
# the Active tab shows the rule. It brings its own throwaway PostgreSQL, a broker inside the process
# (or the one KAFKA_BROKERS names) and a Sheets server; nothing outside the machine is touched.
#
#   --keep    leave the spreadsheet page open at the end (see `kylo demo --help` for the rest)

# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in
  -h | --help)
    usage "$0"
    exit 0
    ;;
esac

"$ROOT/scripts/setup.sh"
find_cargo

# The debug profile: nothing in the demo is bound by the processor, and what a person waits for is the
# first build. Thin LTO alone makes a release build take more than twice as long on two cores; the few
# crates that are too slow without optimisation are optimised in this profile, too (see Cargo.toml).
say 'demo: building (some minutes the first time)'
cd "$ROOT"
SQLX_OFFLINE=true cargo build --locked --bin kylo >&2
exec "${CARGO_TARGET_DIR:-$ROOT/target}/debug/kylo" demo "$@"
