#!/usr/bin/env bash
# Usage: scripts/test-n8n.sh [KAFKA_NODE_VERSION]
#
# The workflows in a real n8n, from webhook to cell: real Kafka, real PostgreSQL, fake-sheets, `kylo run`. Installs
# what is missing (n8n: 3 GB, some minutes, once), starts everything on free loopback ports with databases and topics
# of its own, runs tests/n8n/flow.py against it, and stops what it started. Too slow for every change: it is run
# before each release. The last line is `N passed, N failed`; logs are in .local/n8n-test/.
#
# It stops and starts this clone's Kafka, so it does not run where KAFKA_BROKERS names another one.
# KAFKA_NODE_VERSION is 1 or 2; without it scripts/n8n.sh takes 2 where its native part loads.
# N8N_TEST_KYLO=path runs that kylo instead of building one.
# N8N_VERSION=1.123.81 runs another n8n than the pinned one (scripts/n8n.sh --help).

# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in
  '') ;;
  1 | 2) export N8N_KAFKA_NODE=$1 ;;
  -h | --help)
    usage "$0"
    exit 0
    ;;
  *) wrong_call "unknown argument '$1'" ;;
esac
cd "$ROOT"
! kafka_is_external || die 'KAFKA_BROKERS names a broker that is not of this clone: unset it'
! pg_is_external || die 'PG_DSN_RW names a server that is not of this clone: unset it'
mkdir -p "$LOCAL"
exec 8>"$LOCAL/test-n8n.lock"
flock -n 8 || die 'another scripts/test-n8n.sh is at work in this clone'

LOGS="$LOCAL/n8n-test"
rm -rf "$LOGS"
mkdir -p "$LOGS"
export N8N_INSTANCE=n8n_test
STARTED_PG=0 STARTED_KAFKA=0 WORKER='' SHEETS=''

cleanup() {
  local pid
  for pid in $WORKER $SHEETS; do if pid_runs "$pid" "$KYLO"; then stop_pid "$pid" "$KYLO" TERM 20; fi; done
  WORKER='' SHEETS=''
  scripts/n8n.sh down || true
  # Or .local/env would name this test's database as the clone's.
  unset PG_DSN_RW
  if [ "$STARTED_KAFKA" = 1 ]; then STARTED_KAFKA=0 && scripts/down.sh --only kafka; fi
  if [ "$STARTED_PG" = 1 ]; then STARTED_PG=0 && scripts/down.sh --only postgres; fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# n8n first: where it cannot be installed, nobody waits for a build.
scripts/setup.sh --n8n
scripts/n8n.sh install
find_cargo
KYLO=${N8N_TEST_KYLO:-}
if [ -z "$KYLO" ]; then
  SQLX_OFFLINE=true cargo build --locked --bin kylo
  KYLO="${CARGO_TARGET_DIR:-$ROOT/target}/debug/kylo"
fi

pg_running || STARTED_PG=1
kafka_running || STARTED_KAFKA=1
scripts/up.sh
load_env

# A database and topics that nothing has used before: what an earlier run left would be counted again.
psql=$(psql_bin) server=${PG_DSN_RW%/*}
scripts/n8n.sh down
"$psql" -Xq "$server/postgres" -c 'set client_min_messages = warning' -c 'drop database if exists kylo_n8n_test with (force)' \
  -c 'create database kylo_n8n_test' -c 'drop database if exists n8n_test with (force)'
rm -f "$LOCAL/n8n/$N8N_INSTANCE/imported"
run="n8n-test-$(date +%s)"
export PG_DSN_RW="$server/kylo_n8n_test" KYLO_ENVIRONMENT=n8n-test
export KAFKA_TOPIC_TXNS="$run.txns" KAFKA_TOPIC_PROMOTE="$run.promote" KAFKA_TOPIC_EVENTS="$run.events"
export KAFKA_GROUP_TXNS="$run-txns" KAFKA_GROUP_PROMOTE="$run-promote"

"$KYLO" migrate >"$LOGS/migrate.log"
"$KYLO" topics ensure >>"$LOGS/migrate.log"
company() { # ID SCHEMA
  printf %s "$PG_DSN_RW" | "$KYLO" company set "$1" --schema "$2" --spreadsheet my-book --tab-pending "$1 Pending" --tab-active "$1 Active" --dsn-file - >>"$LOGS/migrate.log"
}
company 710 app_710
company 711 app_711
company '710 EMPIRE "漢"' app_empire
company bulk app_bulk

"$KYLO" fake-sheets --addr 127.0.0.1:0 --key-file "$LOGS/key.json" --spreadsheet my-book >"$LOGS/sheets.json" 2>"$LOGS/sheets.log" </dev/null 8>&- &
SHEETS=$!
end=$((SECONDS + READY_SECONDS))
until [ -s "$LOGS/sheets.json" ]; do
  kill -0 "$SHEETS" || die "fake-sheets ended; see $LOGS/sheets.log"
  [ "$SECONDS" -lt "$end" ] || die "fake-sheets did not announce its address; see $LOGS/sheets.log"
  sleep 0.1
done
KYLO_SHEETS_ENDPOINT=$(sed -n 's/.*"url":"\([^"]*\)".*/\1/p' "$LOGS/sheets.json")
export KYLO_SHEETS_ENDPOINT GOOGLE_APPLICATION_CREDENTIALS="$LOGS/key.json" KYLO_SHEETS_POST=1
"$KYLO" run >"$LOGS/kylo.out" 2>"$LOGS/kylo.log" </dev/null 8>&- &
WORKER=$!

scripts/n8n.sh up
status=0
PYTHONUNBUFFERED=1 N8N_URL="http://127.0.0.1:$(cat "$LOCAL/n8n/$N8N_INSTANCE/port")" SHEETS_URL="$KYLO_SHEETS_ENDPOINT" PSQL="$psql" SERVER_DSN="$server" \
  N8N_LOG="$LOCAL/n8n/$N8N_INSTANCE/log" python3 tests/n8n/flow.py >"$LOGS/flow.log" 2>&1 8>&- || status=$?
# Everything is stopped before the last line, which is the count.
cleanup
cat "$LOGS/flow.log"
exit $status
