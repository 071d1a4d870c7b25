#!/usr/bin/env bash
# Usage: scripts/down.sh [--only postgres|kafka]
#
# Stops what scripts/up.sh of this clone has started. Data stay under .local/ for the next start.
# A process is stopped by its id, and only when that id still is the server this clone started.
#
#   --only postgres|kafka   stop just this one

# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

down_postgres() {
  local pid dir
  dir=$(pg_dir)
  if ! pg_running; then
    say 'postgres: not running'
    return
  fi
  pid=$(pg_pid)
  # INT is PostgreSQL's fast shutdown: sessions are ended, the data files are left clean.
  stop_pid "$pid" "$dir/data" INT 30
  say "postgres: stopped (process $pid)"
}

down_kafka() {
  local pid
  if ! kafka_running; then
    rm -f "$LOCAL/kafka/pid"
    say 'kafka: not running'
    return
  fi
  pid=$(kafka_pid)
  stop_pid "$pid" "$LOCAL/kafka/server.properties" TERM 30
  rm -f "$LOCAL/kafka/pid"
  say "kafka: stopped (process $pid)"
}

parse_only "$@"
lock_services
[ "$WANT_PG" = 0 ] || down_postgres
[ "$WANT_KAFKA" = 0 ] || down_kafka
write_env
