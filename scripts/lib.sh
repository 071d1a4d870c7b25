# shellcheck shell=bash
# What the scripts share: where things are, which ports, is that process still ours.
# Sourced by every script in this folder, never run. Must never stop a process whose
# command line it has not just checked, and must never print a password.
#
# Everything a clone starts lives under its own `.local/` (ignored by git):
#   .local/env              PG_DSN_RW and KAFKA_BROKERS, to be sourced (mode 0600: it holds a password)
#   .local/pg/              the PostgreSQL cluster, its password, port and log
#   .local/kafka/           Kafka's jars, data, port, pid and log
#   .local/venv/            Python packages of the checks
#   .local/database_url     scratch database the SQL is checked against while building

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
LOCAL="$ROOT/.local"
ENV_FILE="$LOCAL/env"
# Names and ports derive from the path, so that two clones on one machine keep apart.
REPO_ID=$(printf '%s' "$ROOT" | sha256sum | cut -c1-8)

# Starting takes seconds; the deadline is for a machine that is busy with other work.
# shellcheck disable=SC2034 # used by the scripts that source this
READY_SECONDS=180

say() { printf '%s\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}
# A wrong call ends with 2, like the program itself.
wrong_call() {
  printf 'error: %s (see %s --help)\n' "$*" "$0" >&2
  exit 2
}
have() { command -v "$1" >/dev/null 2>&1; }

# The comment block at the top of a script, from its second line on, is its usage text.
usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$1"; }

# --- Paths that depend on who runs this -----------------------------------------------------

# PostgreSQL refuses to run as root, so root starts it as this user.
pg_user() {
  if [ "$(id -u)" -ne 0 ]; then
    id -un
  elif id -u postgres >/dev/null 2>&1; then
    echo postgres
  else
    echo nobody
  fi
}

# What to put before a command so that it runs as the user the cluster belongs to.
AS_PG_USER=()
if [ "$(id -u)" -eq 0 ]; then
  AS_PG_USER=(setpriv "--reuid=$(pg_user)" "--regid=$(id -g "$(pg_user)")" --init-groups)
fi
# From the root folder, because that user may not be able to enter the current one.
as_pg_user() { (cd / && "${AS_PG_USER[@]}" "$@"); }

# A clone below /root cannot be entered by the user the server runs as. The cluster of such a clone
# lives under /var/tmp instead; opening up someone's home folder is not ours to do.
pg_dir() {
  if [ "$(id -u)" -eq 0 ] && ! as_pg_user test -x "$ROOT"; then
    echo "/var/tmp/kylo-$REPO_ID-pg"
  else
    echo "$LOCAL/pg"
  fi
}

# --- Tools ----------------------------------------------------------------------------------

PG_MIN=13
# Folder with initdb, postgres and psql of the newest PostgreSQL that is recent enough; empty if none.
pg_bin() {
  local dir major best='' best_major=0
  for dir in /usr/lib/postgresql/*/bin /usr/local/pgsql/bin "$(dirname "$(command -v postgres 2>/dev/null || echo /none/x)")"; do
    [ -x "$dir/postgres" ] && [ -x "$dir/initdb" ] || continue
    case $dir in
      /usr/lib/postgresql/*) major=${dir#/usr/lib/postgresql/} major=${major%%/*} ;;
      *) major=$("$dir/postgres" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/') ;;
    esac
    if [ "$major" -ge "$PG_MIN" ] && [ "$major" -gt "$best_major" ]; then
      best=$dir best_major=$major
    fi
  done
  printf '%s' "$best"
}

JAVA_MIN=17
# Reads the version from the JDK's own `release` file: starting a JVM to ask takes 20 times as long.
java_major() {
  local home
  home=$(dirname "$(dirname "$(readlink -f "$1")")")
  if [ -r "$home/release" ]; then
    sed -n 's/^JAVA_VERSION="\([0-9]*\).*/\1/p' "$home/release"
  else
    "$1" -version 2>&1 | sed -n '1s/.*version "\([0-9]*\).*/\1/p'
  fi
}

# Path of a Java that is recent enough for Kafka 4; empty if there is none.
java_bin() {
  local java major
  for java in "${JAVA_HOME:-/none}/bin/java" "$(command -v java 2>/dev/null || true)" /usr/lib/jvm/*/bin/java; do
    [ -n "$java" ] && [ -x "$java" ] || continue
    major=$(java_major "$java")
    if [ "${major:-0}" -ge "$JAVA_MIN" ]; then
      printf '%s' "$java"
      return
    fi
  done
}

# rustup puts cargo where a login shell would look; a script run by CI has no login shell. Called again
# after setup.sh, which may just have installed it.
find_cargo() {
  local bin="${CARGO_HOME:-${HOME:-/root}/.cargo}/bin"
  case ":$PATH:" in *":$bin:"*) return ;; esac
  [ ! -x "$bin/cargo" ] || export PATH="$bin:$PATH"
}
find_cargo

# --- Ports ----------------------------------------------------------------------------------

port_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A free port below the range the kernel hands out to clients (32768 and up), so that no outgoing
# connection can sit on it while the server is down. $1 sets where the search starts; further
# arguments are ports not to take.
free_port() {
  local n base=$((16#${REPO_ID:0:7} % 10000)) port
  local offset=$1
  shift
  for n in $(seq 0 199); do
    port=$((20000 + (base + offset + n * 13) % 10000))
    case " $* " in *" $port "*) continue ;; esac
    if ! port_taken "$port"; then
      echo "$port"
      return
    fi
  done
  die 'no free port between 20000 and 30000 on 127.0.0.1'
}

# --- Processes ------------------------------------------------------------------------------

# Is process $1 alive and is $2 one of its arguments? A recycled process id fails the second test,
# a zombie (which has no arguments any more) too.
pid_runs() {
  [ -n "$1" ] && [ -r "/proc/$1/cmdline" ] && tr '\0' '\n' <"/proc/$1/cmdline" 2>/dev/null | grep -qxF -- "$2"
}

pg_pid() { sed -n 1p "$(pg_dir)/data/postmaster.pid" 2>/dev/null || true; }
kafka_pid() { cat "$LOCAL/kafka/pid" 2>/dev/null || true; }

pg_running() { pid_runs "$(pg_pid)" "$(pg_dir)/data"; }
kafka_running() { pid_runs "$(kafka_pid)" "$LOCAL/kafka/server.properties"; }

# Ends process $1 (still running $2): TERM or the signal $3, then KILL when $4 seconds have passed.
stop_pid() {
  local pid=$1 arg=$2 signal=$3 end=$((SECONDS + $4))
  kill "-$signal" "$pid" 2>/dev/null || true
  while pid_runs "$pid" "$arg"; do
    if [ "$SECONDS" -ge "$end" ]; then
      say "process $pid did not end within $4 s, killing it"
      pid_runs "$pid" "$arg" && kill -KILL "$pid" 2>/dev/null
      end=$((SECONDS + 10))
    fi
    sleep 0.05
  done
}

# --- Addresses ------------------------------------------------------------------------------

own_pg_dsn() {
  local dir
  dir=$(pg_dir)
  [ -r "$dir/password" ] && [ -r "$dir/port" ] || return 0
  printf 'postgres://postgres:%s@127.0.0.1:%s/kylo' "$(cat "$dir/password")" "$(cat "$dir/port")"
}
own_kafka_brokers() {
  [ ! -r "$LOCAL/kafka/port" ] || printf '127.0.0.1:%s' "$(cat "$LOCAL/kafka/port")"
}

# Does the environment name a service that is not this clone's own? (After `. .local/env` it names ours.)
pg_is_external() { [ -n "${PG_DSN_RW:-}" ] && [ "$PG_DSN_RW" != "$(own_pg_dsn)" ]; }
kafka_is_external() { [ -n "${KAFKA_BROKERS:-}" ] && [ "$KAFKA_BROKERS" != "$(own_kafka_brokers)" ]; }

# One assignment a shell reads back as it was.
assignment() {
  case $2 in
    *[!A-Za-z0-9:/@.,_%+=-]*) printf "%s='%s'\n" "$1" "${2//\'/\'\\\'\'}" ;;
    *) printf '%s=%s\n' "$1" "$2" ;;
  esac
}

# Writes .local/env from what is true now: services named by the environment, else our own that run.
write_env() {
  local pg='' kafka='' new="$ENV_FILE.new"
  if pg_is_external; then pg=$PG_DSN_RW; elif pg_running; then pg=$(own_pg_dsn); fi
  if kafka_is_external; then kafka=$KAFKA_BROKERS; elif kafka_running; then kafka=$(own_kafka_brokers); fi
  if [ -z "$pg$kafka" ]; then
    rm -f "$ENV_FILE"
    return
  fi
  (
    umask 077
    {
      echo '# Made by scripts/up.sh; gone when scripts/down.sh has stopped everything.'
      [ -z "$pg" ] || assignment PG_DSN_RW "$pg"
      [ -z "$kafka" ] || assignment KAFKA_BROKERS "$kafka"
      echo "export${pg:+ PG_DSN_RW}${kafka:+ KAFKA_BROKERS}"
    } >"$new"
  )
  mv "$new" "$ENV_FILE"
}

# Reads .local/env for what the environment does not set itself.
load_env() {
  local pg=${PG_DSN_RW:-} kafka=${KAFKA_BROKERS:-}
  # shellcheck disable=SC1090
  [ ! -r "$ENV_FILE" ] || . "$ENV_FILE"
  [ -z "$pg" ] || export PG_DSN_RW="$pg"
  [ -z "$kafka" ] || export KAFKA_BROKERS="$kafka"
}

# psql of the newest installed client, or the one in PATH.
psql_bin() {
  local bin
  bin=$(pg_bin)
  if [ -n "$bin" ] && [ -x "$bin/psql" ]; then
    echo "$bin/psql"
  else
    command -v psql || die 'psql is missing: run scripts/setup.sh'
  fi
}

# One start or stop at a time in a clone. Servers close descriptor 9, or they would keep the lock.
lock_services() {
  mkdir -p "$LOCAL"
  exec 9>"$LOCAL/services.lock"
  flock -w 180 9 || die "another up.sh or down.sh has been at work in $ROOT for 3 minutes"
}

# Reads --only and --help for up.sh and down.sh into WANT_PG and WANT_KAFKA.
parse_only() {
  WANT_PG=1 WANT_KAFKA=1
  while [ $# -gt 0 ]; do
    case $1 in
      --only)
        case ${2:-} in
          postgres) WANT_KAFKA=0 ;;
          kafka) WANT_PG=0 ;;
          *) wrong_call "--only takes postgres or kafka, not '${2:-}'" ;;
        esac
        shift 2
        ;;
      -h | --help)
        usage "$0"
        exit 0
        ;;
      *) wrong_call "unknown argument '$1'" ;;
    esac
  done
  [ $((WANT_PG + WANT_KAFKA)) -gt 0 ] || wrong_call '--only may be given once'
}

# Whole seconds since $1, for the lines people read.
since() { printf '%ss' $((SECONDS - $1)); }
