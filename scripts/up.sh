#!/usr/bin/env bash
# Usage: scripts/up.sh [--only postgres|kafka]
#
# Starts PostgreSQL and Apache Kafka (KRaft, one node) on 127.0.0.1 for this clone, with data under
# .local/ and on free ports, and writes their addresses to .local/env:
#
#     scripts/up.sh && . .local/env && psql "$PG_DSN_RW" -c 'select 1'
#
# A service that runs already stays as it is. When PG_DSN_RW or KAFKA_BROKERS is set in the
# environment, that service is used and none is started for it.
#
#   --only postgres|kafka   start just this one
#   KYLO_TEST_FAST=1        PostgreSQL without fsync: faster tests, data lost when the machine crashes
#
# Stop them with scripts/down.sh. Logs: .local/pg/log, .local/kafka/log.

# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

fail_with_log() {
  say "--- last lines of $2 ---"
  tail -n 15 "$2" >&2 || true
  die "$1; the whole log is $2"
}

# --- PostgreSQL -----------------------------------------------------------------------------

make_cluster() {
  local bin=$1 dir=$2 user locale=C
  user=$(pg_user)
  # C.UTF-8 sorts bytewise like C and still knows upper and lower case beyond ASCII.
  ! locale -a 2>/dev/null | grep -qix 'C\.utf-\?8' || locale=C.UTF-8
  rm -rf "$dir/data"
  [ ! -L "$dir" ] || die "$dir is a link: remove it"
  mkdir -p "$dir"
  (umask 077 && head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$dir/password")
  [ "$(id -u)" -ne 0 ] || chown -R "$user" "$dir"
  chmod 700 "$dir"
  as_pg_user "$bin/initdb" -D "$dir/data" -U postgres --pwfile="$dir/password" --auth=scram-sha-256 \
    --encoding=UTF8 --locale="$locale" >"$dir/initdb.log" 2>&1 ||
    fail_with_log "initdb failed for $dir/data" "$dir/initdb.log"
  touch "$dir/complete"
}

spawn_postgres() {
  local bin=$1 dir=$2 port=$3
  # A client that is stopped in the middle of its login holds up every DROP DATABASE until that login has timed out.
  local settings=(-c listen_addresses=127.0.0.1 -c authentication_timeout=8s -c port="$port" -c unix_socket_directories=
    -c max_connections=400 -c max_locks_per_transaction=256 -c shared_buffers=128MB -c max_wal_size=1GB
    -c timezone=UTC -c log_timezone=UTC -c jit=off)
  if [ "${KYLO_TEST_FAST:-}" = 1 ]; then
    settings+=(-c fsync=off -c synchronous_commit=off -c full_page_writes=off)
  fi
  (cd / && exec "${AS_PG_USER[@]}" setsid env LC_ALL=C "$bin/postgres" -D "$dir/data" "${settings[@]}" >"$dir/log" 2>&1 </dev/null 8>&- 9>&-) &
}

# Polls until the server answers a query. 0 = ready, 1 = it has ended.
await_postgres() {
  local end=$((SECONDS + READY_SECONDS)) dsn job=$1 psql
  dsn=$(own_pg_dsn) psql=$(psql_bin)
  until PGCONNECT_TIMEOUT=2 "$psql" -XAtq "${dsn%/kylo}/postgres" -c 'select 1' >/dev/null 2>&1; do
    kill -0 "$job" 2>/dev/null || pg_running || return 1
    [ "$SECONDS" -lt "$end" ] || fail_with_log "PostgreSQL did not answer within $READY_SECONDS s" "$(pg_dir)/log"
    sleep 0.05
  done
}

# A server that was killed leaves its process id behind. PostgreSQL refuses to start while anything has that
# id, even a zombie that a container's first process has not collected, or a stranger. Only the id is
# replaced (by one beyond the kernel's range): the rest of the file is how the new server finds out
# whether the dead one's sessions still hold the data.
forget_dead_server() {
  local file="$1/data/postmaster.pid"
  [ ! -e "$file" ] || pg_running || sed -i '1s/.*/2147483646/' "$file"
}

start_postgres() {
  local bin dir made_by port attempt=0 began=$SECONDS dsn
  bin=$(pg_bin) dir=$(pg_dir)
  [ -n "$bin" ] || die "no PostgreSQL >= $PG_MIN found in /usr/lib/postgresql or PATH: run scripts/setup.sh"
  if [ -e "$dir" ] && ! [ -r "$dir/password" ] && [ -n "$(ls -A "$dir" 2>&1)" ] && [ "$(id -u)" -ne 0 ]; then
    die "$dir was made by another user: run this as that user, or remove the folder as that user"
  fi
  [ -e "$dir/complete" ] || make_cluster "$bin" "$dir"
  # The data belong to the version that made them, even when a newer one was installed since.
  made_by="/usr/lib/postgresql/$(cat "$dir/data/PG_VERSION")/bin"
  [ ! -x "$made_by/postgres" ] || bin=$made_by
  while true; do
    port=$(cat "$dir/port" 2>/dev/null || true)
    if [ -z "$port" ] || port_taken "$port"; then
      port=$(free_port "$attempt")
      echo "$port" >"$dir/port"
    fi
    forget_dead_server "$dir"
    spawn_postgres "$bin" "$dir" "$port"
    if await_postgres $!; then
      dsn=$(own_pg_dsn)
      ensure_database "$dsn"
      say "postgres: started on 127.0.0.1:$port in $(since "$began") ($("$bin/postgres" --version | sed -E 's/^[^0-9]*([0-9.]+).*/PostgreSQL \1/'); data $dir/data)"
      return
    fi
    attempt=$((attempt + 1))
    [ $((SECONDS - began)) -lt "$READY_SECONDS" ] || break
    if grep -q 'could not bind IPv4 address' "$dir/log"; then
      # Another program took the port between our look and the server's bind: the next one, then.
      rm -f "$dir/port"
    elif grep -q 'pre-existing shared memory block' "$dir/log"; then
      # Sessions of a killed server are about to notice that it has gone.
      sleep 0.2
    else
      break
    fi
  done
  fail_with_log "PostgreSQL ended while starting on port $port" "$dir/log"
}

ensure_database() {
  local admin="${1%/kylo}/postgres" psql
  psql=$(psql_bin)
  [ "$("$psql" -XAtq "$admin" -c "select 1 from pg_database where datname = 'kylo'")" = 1 ] ||
    "$psql" -Xq "$admin" -c 'create database kylo' >&2
}

up_postgres() {
  if pg_is_external; then
    PGCONNECT_TIMEOUT=10 "$(psql_bin)" -XAtq "$PG_DSN_RW" -c 'select 1' >/dev/null ||
      die 'PG_DSN_RW is set but its server does not answer: start it, or unset PG_DSN_RW to have one started here'
    say 'postgres: using the one PG_DSN_RW names'
  elif pg_running; then
    say "postgres: runs already on 127.0.0.1:$(cat "$(pg_dir)/port")"
  else
    start_postgres
  fi
}

# --- Kafka ----------------------------------------------------------------------------------

write_properties() {
  local dir=$1 port=$2 controller=$3
  cat >"$dir/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
controller.quorum.bootstrap.servers=127.0.0.1:$controller
log.dirs=$dir/data
# Topics are made by scripts/kafka_topics.sh: a misspelt name must be an error, not a new topic.
auto.create.topics.enable=false
# One node: internal topics cannot have more replicas, and one partition is quick to load.
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
# Groups settle at once, and a dead member is noticed within a test's patience.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=100
group.consumer.heartbeat.interval.ms=500
# After kill -9 the broker is let back in after 4 s instead of 13 s.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=250
log.cleaner.dedupe.buffer.size=2097152
log.index.size.max.bytes=1048576
PROPERTIES
}

format_storage() {
  local java=$1 dir=$2 id
  rm -rf "$dir/data"
  # Base64 of 16 bytes; no "-", which would be taken for an option where it comes first.
  id=$(head -c16 /dev/urandom | base64 | tr '+/' 'xy' | cut -c1-22)
  (cd "$dir" && "$java" -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp 'jars/*' \
    kafka.tools.StorageTool format --standalone -t "$id" -c "$dir/server.properties") >"$dir/format.log" 2>&1 ||
    fail_with_log 'formatting the Kafka storage failed' "$dir/format.log"
  touch "$dir/formatted"
}

spawn_kafka() {
  local java=$1 dir=$2
  # A class archive halves the start. The first broker writes it when it stops; a JVM ignores one
  # that does not fit its version or jars.
  local archive=(-XX:SharedArchiveFile=kafka.jsa)
  [ -s "$dir/kafka.jsa" ] || archive=(-XX:ArchiveClassesAtExit=kafka.jsa)
  (cd "$dir" && exec setsid env LC_ALL=C "$java" -Xms128m -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xlog:cds=off -Xlog:cds+dynamic=off \
    "${archive[@]}" -Dorg.slf4j.simpleLogger.showDateTime=true -Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS \
    -cp 'jars/*' kafka.Kafka "$dir/server.properties" >"$dir/log" 2>&1 </dev/null 8>&- 9>&-) &
  echo $! >"$dir/pid"
}

# The data listener opens only when the broker may serve. 0 = ready, 1 = it has ended.
await_kafka() {
  local end=$((SECONDS + READY_SECONDS)) port=$1 job=$2
  until port_taken "$port"; do
    kill -0 "$job" 2>/dev/null || return 1
    [ "$SECONDS" -lt "$end" ] || fail_with_log "Kafka did not open its listener within $READY_SECONDS s" "$LOCAL/kafka/log"
    sleep 0.02
  done
  # Someone else's listener on that port would look the same: ours must still be alive.
  kafka_running
}

start_kafka() {
  local java dir="$LOCAL/kafka" port controller attempt began=$SECONDS
  java=$(java_bin)
  [ -n "$java" ] || die "no Java >= $JAVA_MIN found: run scripts/setup.sh"
  "$ROOT/scripts/kafka/fetch.sh"
  for attempt in 1 2 3 4 5; do
    port=$(cat "$dir/port" 2>/dev/null || true) controller=$(cat "$dir/controller_port" 2>/dev/null || true)
    if [ -z "$port" ] || port_taken "$port"; then port=$(free_port $((100 + attempt))); fi
    if [ -z "$controller" ] || port_taken "$controller"; then controller=$(free_port $((200 + attempt)) "$port"); fi
    echo "$port" >"$dir/port"
    echo "$controller" >"$dir/controller_port"
    write_properties "$dir" "$port" "$controller"
    [ -e "$dir/formatted" ] || format_storage "$java" "$dir"
    spawn_kafka "$java" "$dir"
    if await_kafka "$port" $!; then
      say "kafka: started on 127.0.0.1:$port in $(since "$began") (data $dir/data)"
      return
    fi
    grep -q 'Address already in use' "$dir/log" || break
    rm -f "$dir/port" "$dir/controller_port"
  done
  rm -f "$dir/pid"
  fail_with_log "Kafka ended while starting on port $port" "$dir/log"
}

up_kafka() {
  if kafka_is_external; then
    local first=${KAFKA_BROKERS%%,*}
    timeout 10 bash -c 'exec 3<>"/dev/tcp/$1/$2"' _ "${first%:*}" "${first##*:}" 2>/dev/null ||
      die "KAFKA_BROKERS is set but $first does not accept connections: start it, or unset KAFKA_BROKERS to have one started here"
    say 'kafka: using the one KAFKA_BROKERS names'
  elif kafka_running; then
    say "kafka: runs already on 127.0.0.1:$(cat "$LOCAL/kafka/port")"
  else
    start_kafka
  fi
}

parse_only "$@"
lock_services
[ "$WANT_PG" = 0 ] || up_postgres
write_env
[ "$WANT_KAFKA" = 0 ] || up_kafka
write_env
say "addresses: $ENV_FILE"
