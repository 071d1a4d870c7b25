#!/usr/bin/env bash
# Usage: scripts/chaos.sh [--seed N] [--minutes M] [--kills PERCENT]
#
# The soak: up to four workers of the built binary against a real Kafka, a real PostgreSQL and the fake-sheets
# server, while at random workers are killed and frozen, broker and database are killed and restarted, the
# Sheets service fails in every way it can, and people edit the tabs. Then everything is drained and audited:
# nothing may be lost, doubled, misrouted or reordered. The last line of the test's own output is one JSON
# object with the figures. The same seed does the same things at the same points of the storm.
#
#   --seed N      default: the time
#   --minutes M   how long the storm lasts (default 5); draining comes on top
#   --kills PERCENT   so much of the harm is a kill -9, beside those that the dice give (default 0)
#
# Services are this clone's own (scripts/up.sh): they are started where they do not run, and killed.

# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

SEED=$(date +%s) MINUTES=5 KILLS=0 RESTART=''
while [ $# -gt 0 ]; do
  case $1 in
    --seed) SEED=${2:-} && shift 2 ;;
    --minutes) MINUTES=${2:-} && shift 2 ;;
    --kills) KILLS=${2:-} && shift 2 ;;
    # For the driver: kills a service of this clone and starts it again.
    --restart) RESTART=${2:-} && shift 2 ;;
    -h | --help)
      usage "$0"
      exit 0
      ;;
    *) wrong_call "unknown argument '$1'" ;;
  esac
done
cd "$ROOT"

# By its id, and only when that id still is the server this clone started.
kill_service() {
  case $1 in
    postgres) pg_running && kill -KILL "$(pg_pid)" ;;
    kafka) kafka_running && kill -KILL "$(kafka_pid)" ;;
    *) wrong_call "--restart takes postgres or kafka, not '$1'" ;;
  esac
}

if [ -n "$RESTART" ]; then
  unset PG_DSN_RW KAFKA_BROKERS
  kill_service "$RESTART" || true
  exec scripts/up.sh --only "$RESTART"
fi

case $SEED$MINUTES$KILLS in '' | *[!0-9]*) wrong_call '--seed, --minutes and --kills take whole numbers' ;; esac
unset PG_DSN_RW KAFKA_BROKERS
scripts/up.sh
load_env
export PG_DSN_RW KAFKA_BROKERS
unset KYLO_TEST_FAST
say "chaos: seed $SEED, $MINUTES minutes"
CHAOS_SEED=$SEED CHAOS_LEAST_KILLS=0 CHAOS_KILLS=$KILLS CHAOS_SECONDS=$((MINUTES * 60)) CHAOS_SERVICES=1 SQLX_OFFLINE=true \
  cargo test --locked --features faults --test crashes -- --nocapture --exact \
  chaos::r1_r3_r5_chaos_of_a_seed_is_over_with_nothing_lost_doubled_misrouted_or_reordered
