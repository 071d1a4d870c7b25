#!/usr/bin/env bash
# Usage: tests/scripts/services.sh
#
# Runs scripts/up.sh and scripts/down.sh in two throwaway clones and breaks things in between: killed
# servers, recycled process ids, taken ports. Called by scripts/test.sh; takes about half a minute.
# Ends with `N passed, N failed`. Must never touch the services of the clone it belongs to.
set -uo pipefail

case ${1:-} in
  -h | --help)
    awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
    exit 0
    ;;
esac

SOURCE=$(cd "$(dirname "$0")/../.." && pwd -P)
unset PG_DSN_RW KAFKA_BROKERS
"$SOURCE/scripts/kafka/fetch.sh" || exit 1

# The first clone can be entered by everyone, the second by its owner alone, like one below /root.
A=$(mktemp -d) B=$(mktemp -d)
chmod 755 "$A"
for clone in "$A" "$B"; do
  mkdir -p "$clone/.local/kafka"
  cp -r "$SOURCE/scripts" "$clone/"
  cp -r "$SOURCE/.local/kafka/jars" "$SOURCE/.local/kafka/jars.list" "$clone/.local/kafka/"
  [ ! -e "$SOURCE/.local/kafka/kafka.jsa" ] || cp -p "$SOURCE/.local/kafka/kafka.jsa" "$clone/.local/kafka/"
done

in_clone() { (cd "$1" && shift && bash -c '. scripts/lib.sh; "$@"' _ "$@"); }
PSQL=$(in_clone "$A" psql_bin)
HELPERS=()
cleanup() {
  local clone
  for helper in "${HELPERS[@]:-}"; do [ -z "$helper" ] || kill "$helper" 2>/dev/null; done
  for clone in "$A" "$B"; do
    "$clone/scripts/down.sh" >/dev/null 2>&1
    case $(in_clone "$clone" pg_dir) in /var/tmp/kylo-*-pg) rm -rf "$(in_clone "$clone" pg_dir)" ;; esac
    rm -rf "$clone"
  done
}
trap cleanup EXIT
trap 'exit 143' INT TERM HUP

up() { "$1/scripts/up.sh" "${@:2}" 2>"$1/said"; }
down() { "$1/scripts/down.sh" "${@:2}" 2>"$1/said"; }
sql() { (. "$1/.local/env" && "$PSQL" -XAtq "$PG_DSN_RW" -c "$2"); }
dsn() { (. "$1/.local/env" && echo "$PG_DSN_RW"); }
brokers() { (. "$1/.local/env" && echo "$KAFKA_BROKERS"); }
pids() { echo "$(in_clone "$1" pg_pid) $(in_clone "$1" kafka_pid)"; }
topic() {
  local java
  java=$(in_clone "$1" java_bin)
  (cd "$1/.local/kafka" && "$java" -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Dorg.slf4j.simpleLogger.defaultLogLevel=off \
    -cp 'jars/*' org.apache.kafka.tools.TopicCommand --bootstrap-server "$(brokers "$1")" "${@:2}")
}
# A zombie has ended, too, though its id still takes signals: it has no command line.
alive() { [ -n "$(cat "/proc/$1/cmdline" 2>/dev/null | tr -d '\0')" ]; }
# A program that listens on port $1 of loopback; returns when it does.
occupy() {
  python3 -c 'import signal, socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(sys.argv[1]))); s.listen(); signal.pause()' "$1" &
  HELPERS+=($!)
  local end=$((SECONDS + 20))
  until in_clone "$A" port_taken "$1"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.05
  done
}

# --- Properties -----------------------------------------------------------------------------

every_script_prints_its_usage_and_refuses_unknown_arguments() {
  local script
  for script in up down setup sqlx test kafka/fetch; do
    bash "$A/scripts/$script.sh" --help | grep -q "^Usage: scripts/$script.sh" || return 1
    bash "$A/scripts/$script.sh" --no-such-thing >/dev/null 2>&1
    [ $? -eq 2 ] || return 1
  done
  for script in demo kafka_topics; do
    bash "$A/scripts/$script.sh" --help | grep -q "^Usage: scripts/$script.sh" || return 1
  done
}

both_answer_after_the_first_start_and_the_password_is_private() {
  up "$A" || return 1
  [ "$(sql "$A" 'select 1')" = 1 ] || return 1
  topic "$A" --create --topic kept --partitions 3 >/dev/null || return 1
  sql "$A" 'create table kept(n int); insert into kept values (7)' || return 1
  [ "$(stat -c %a "$A/.local/env")" = 600 ] || return 1
  # A wrong password is refused: loopback alone opens nothing.
  ! "$PSQL" -XAtq "$(dsn "$A" | sed 's/:[0-9a-f]*@/:wrong@/')" -c 'select 1' 2>/dev/null
}

a_second_start_changes_nothing() {
  local before
  before=$(pids "$A")
  up "$A" && [ "$(pids "$A")" = "$before" ] && [ "$(grep -c 'runs already' "$A/said")" = 2 ]
}

the_addresses_of_a_start_do_not_count_as_someone_elses() {
  # shellcheck disable=SC1091
  (. "$A/.local/env" && up "$A") && [ "$(grep -c 'runs already' "$A/said")" = 2 ]
}

two_clones_do_not_clash() {
  up "$B" --only postgres || return 1
  [ "$(dsn "$A")" != "$(dsn "$B")" ] || return 1
  sql "$B" 'create table only_b()' || return 1
  [ -z "$(sql "$A" "select to_regclass('only_b')")" ] && ! grep -q KAFKA_BROKERS "$B/.local/env"
}

stopping_one_clone_leaves_the_other() {
  down "$B" && [ ! -e "$B/.local/env" ] && [ "$(sql "$A" 'select n from kept')" = 7 ]
}

named_services_are_used_and_none_is_started() {
  PG_DSN_RW=$(dsn "$A") KAFKA_BROKERS=$(brokers "$A") up "$B" || return 1
  [ "$(dsn "$B")" = "$(dsn "$A")" ] && [ "$(brokers "$B")" = "$(brokers "$A")" ] || return 1
  [ "$(pids "$B")" = ' ' ] || return 1
  down "$B" && [ "$(sql "$A" 'select 1')" = 1 ]
}

a_named_service_that_does_not_answer_is_an_error_without_the_password() {
  ! PG_DSN_RW=postgres://u:hunter2@127.0.0.1:1/x up "$B" --only postgres || return 1
  grep -q 'PG_DSN_RW is set but' "$B/said" && ! grep -q hunter2 "$B/said" || return 1
  ! KAFKA_BROKERS=127.0.0.1:1 up "$B" --only kafka && grep -q '127.0.0.1:1 does not accept' "$B/said"
}

killed_servers_are_started_again_with_their_data() {
  local pg kafka end=$((SECONDS + 20))
  read -r pg kafka <<<"$(pids "$A")"
  kill -KILL "$pg" "$kafka" || return 1
  while alive "$pg" || alive "$kafka"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.05
  done
  up "$A" && [ "$(sql "$A" 'select n from kept')" = 7 ] && in_clone "$A" kafka_running
}

a_recycled_process_id_is_neither_believed_nor_stopped() {
  down "$A" || return 1
  sleep 300 &
  local stranger=$!
  HELPERS+=("$stranger")
  echo "$stranger" >"$A/.local/kafka/pid"
  in_clone "$A" kafka_running && return 1
  down "$A" && kill -0 "$stranger"
}

taken_ports_are_left_to_their_owners_and_data_move_along() {
  local pg_port kafka_port controller_port
  pg_port=$(cat "$(in_clone "$A" pg_dir)/port") kafka_port=$(cat "$A/.local/kafka/port")
  controller_port=$(cat "$A/.local/kafka/controller_port")
  occupy "$pg_port" && occupy "$kafka_port" && occupy "$controller_port" || return 1
  up "$A" || return 1
  [[ $(dsn "$A") != *":$pg_port/"* ]] && [ "$(brokers "$A")" != "127.0.0.1:$kafka_port" ] || return 1
  [ "$(sql "$A" 'select n from kept')" = 7 ] && topic "$A" --list | grep -qx kept
}

stopping_ends_both_and_removes_the_addresses() {
  local pg kafka
  read -r pg kafka <<<"$(pids "$A")"
  down "$A" && ! alive "$pg" && ! alive "$kafka" && [ ! -e "$A/.local/env" ] || return 1
  down "$A" && [ "$(grep -c 'not running' "$A/said")" = 2 ]
}

PASSED=0 FAILED=0
for property in $(sed -n 's/^\([a-z_]*\)() {$/\1/p' "$0" | grep '_.*_.*_'); do
  if "$property"; then
    PASSED=$((PASSED + 1))
    echo "ok   $property"
  else
    FAILED=$((FAILED + 1))
    echo "FAIL $property"
    sed 's/^/       /' "$A/said" "$B/said" 2>/dev/null
  fi
done
echo "$PASSED passed, $FAILED failed"
[ "$FAILED" -eq 0 ]
