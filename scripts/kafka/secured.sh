#!/usr/bin/env bash
# Usage: scripts/kafka/secured.sh run DIR [SCRAM...]
#        scripts/kafka/secured.sh tool CLASS [ARGUMENT...]
#
# A second Kafka broker, for tests of listeners that demand TLS and a login.
#
#   run DIR [SCRAM...]   formats DIR/data, with these SCRAM users, and runs a broker by DIR/server.properties
#                        until standard input ends; then stops it and removes DIR. So whoever holds the
#                        other end of the pipe takes the broker along, however it ends. Log: DIR/log.
#                        SCRAM is as Kafka's StorageTool takes it: SCRAM-SHA-256=[name=n,password=p]
#   tool CLASS ...       runs one of Kafka's command line classes, such as
#                        org.apache.kafka.tools.AclCommand --bootstrap-server HOST:PORT ...

# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

jvm=(-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xlog:cds=off -Xlog:cds+dynamic=off)

prepare() {
  java=$(java_bin)
  [ -n "$java" ] || die "no Java >= $JAVA_MIN found: run scripts/setup.sh"
  # Two tests may come first at the same time.
  mkdir -p "$LOCAL"
  (exec 7>"$LOCAL/fetch.lock" && flock 7 && "$ROOT/scripts/kafka/fetch.sh")
  cd "$LOCAL/kafka"
  # The archive of the usual broker, where there is one: a JVM ignores one that does not fit.
  [ ! -s kafka.jsa ] || jvm+=(-XX:SharedArchiveFile=kafka.jsa)
}

run() {
  local dir=$1 users=() pid
  shift
  [ -r "$dir/server.properties" ] || die "$dir/server.properties is missing"
  while [ $# -gt 0 ]; do
    users+=(-S "$1")
    shift
  done
  prepare
  "$java" "${jvm[@]}" -cp 'jars/*' kafka.tools.StorageTool format --standalone \
    -t "$(head -c16 /dev/urandom | base64 | tr '+/' 'xy' | cut -c1-22)" -c "$dir/server.properties" "${users[@]}" >"$dir/log" 2>&1 ||
    die "formatting failed; see $dir/log"
  LC_ALL=C "$java" -Xms96m -Xmx256m "${jvm[@]}" -cp 'jars/*' kafka.Kafka "$dir/server.properties" >>"$dir/log" 2>&1 </dev/null &
  pid=$!
  # Nobody writes: this ends when the pipe's other end is closed.
  cat >/dev/null || true
  stop_pid "$pid" "$dir/server.properties" TERM 15
  rm -rf "$dir"
}

case ${1:-} in
  run)
    [ $# -ge 2 ] || wrong_call 'run needs a folder'
    shift
    run "$@"
    ;;
  tool)
    [ $# -ge 2 ] || wrong_call 'tool needs a class'
    shift
    prepare
    exec "$java" "${jvm[@]}" -cp 'jars/*' "$@"
    ;;
  -h | --help) usage "$0" ;;
  *) wrong_call "unknown argument '${1:-}'" ;;
esac
