#!/usr/bin/env bash
# Usage: scripts/test.sh
#
# Everything that must hold before a change is merged, from a fresh clone on a bare machine: installs
# what is missing, checks scripts, compose file, format, SQL cache, lints, documentation and licences, runs all
# tests against a real PostgreSQL, a real Kafka and the fake-sheets server, and holds fake-sheets to
# the conformance kit. Every stage runs, also after one has failed.
#
# The last line is `N passed, N failed`: the tests of cargo, the scripts' own and the conformance checks
# together; a stage that fails without counting any failed test counts as one. Ends 0 only when
# nothing failed. Services it started are stopped at the end; those that ran before, or that PG_DSN_RW
# and KAFKA_BROKERS name, are left alone. Logs of the stages: .local/test/.
#
#   KYLO_TEST_FAST=1   PostgreSQL without fsync (when this run starts it)

# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in
  '') ;;
  -h | --help)
    usage "$0"
    exit 0
    ;;
  *) wrong_call "unknown argument '$1'" ;;
esac

cd "$ROOT"
export CARGO_TERM_COLOR=never
LOGS="$LOCAL/test"
mkdir -p "$LOGS"
exec 8>"$LOCAL/test.lock"
flock -n 8 || die 'another scripts/test.sh is at work in this clone'

# --- Ending ---------------------------------------------------------------------------------

STARTED_PG=0 STARTED_KAFKA=0

stop_fake_sheets() {
  local pid
  pid=$(cat "$LOGS/fake-sheets.pid" 2>/dev/null || true)
  rm -f "$LOGS/fake-sheets.pid"
  if pid_runs "$pid" "$FAKE_SHEETS"; then stop_pid "$pid" "$FAKE_SHEETS" TERM 5; fi
}

# Runs at every end, also when a stage was interrupted; a second call finds nothing to do.
cleanup() {
  local group end=$((SECONDS + 30))
  for group in $(jobs -p); do
    kill -TERM -- "-$group" 2>/dev/null || true
    while kill -0 -- "-$group" 2>/dev/null && [ "$SECONDS" -lt "$end" ]; do sleep 0.1; done
    kill -KILL -- "-$group" 2>/dev/null || true
  done
  stop_fake_sheets
  if [ "$STARTED_PG" = 1 ]; then STARTED_PG=0 && scripts/down.sh --only postgres; fi
  if [ "$STARTED_KAFKA" = 1 ]; then STARTED_KAFKA=0 && scripts/down.sh --only kafka; fi
}
FAKE_SHEETS="${CARGO_TARGET_DIR:-$ROOT/target}/debug/fake-sheets"
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# --- Stages ---------------------------------------------------------------------------------

PASSED=0 FAILED=0 SUMMARY=''

# stage NAME COMMAND...: runs it with its output shown and logged, times it, adds up its tests. Each stage
# is a process group of its own (set -m), so that an interrupted run leaves nothing behind.
set -m
stage() {
  local name=$1 began=$SECONDS status passed failed verdict=ok
  local log="$LOGS/$name.log"
  shift
  echo "=== $name"
  # tee outlives a signal to the group: what still has to tidy up must not die of a broken pipe.
  { "$@" 2>&1 && echo 0 >"$log.status" || echo 1 >"$log.status"; } | (trap '' INT TERM HUP && exec tee "$log") &
  wait $! || true
  status=$(cat "$log.status")
  rm -f "$log.status"
  read -r passed failed < <(count_tests "$log")
  if [ "$status" -ne 0 ]; then
    verdict=FAILED
    [ "$failed" -gt 0 ] || failed=1
  elif [ "$failed" -gt 0 ]; then
    verdict=FAILED
  fi
  PASSED=$((PASSED + passed)) FAILED=$((FAILED + failed))
  SUMMARY+=$(printf '%-22s %-7s %6ss %6s passed %4s failed' "$name" "$verdict" $((SECONDS - began)) "$passed" "$failed")$'\n'
  echo "--- $name: $verdict in $((SECONDS - began)) s"
  [ "$verdict" = ok ]
}

# cargo prints one `test result:` line per test binary; our own checks and the conformance kit end
# with `N passed, N failed[, N skipped]`.
count_tests() {
  awk '/^test result: / { for (i = 1; i < NF; i++) { if ($(i+1) ~ /^passed/) p += $i; if ($(i+1) ~ /^failed/) f += $i } }
       /^[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$/ { p += $1; f += $3 }
       END { print p + 0, f + 0 }' "$1"
}

scripts_parse() {
  local file status=0
  for file in scripts/*.sh scripts/kafka/*.sh tests/scripts/*.sh .ci/run; do
    bash -n "$file" || status=1
  done
  if have shellcheck; then
    shellcheck -x -P SCRIPTDIR -S warning scripts/*.sh scripts/kafka/*.sh tests/scripts/*.sh .ci/run || status=1
  else
    echo 'shellcheck is not installed: syntax only'
  fi
  return $status
}

# The kit wants 3.11; its packages accept 3.10.
python_bin() {
  local python
  for python in python3 python3.13 python3.12 python3.11 python3.10; do
    if have "$python" && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
  die 'no Python >= 3.10 found'
}

# The checks' Python packages, installed again only when a requirements file has changed.
python_packages() {
  local venv="$LOCAL/venv" wanted
  local files=(tests/scripts/requirements.txt tests/sheets-conformance/requirements.txt)
  wanted=$(sha256sum "${files[@]}")
  if [ "$(cat "$venv/requirements.sha256" 2>/dev/null || true)" = "$wanted" ]; then
    echo 'up to date'
    return
  fi
  rm -rf "$venv"
  "$(python_bin)" -m venv "$venv" &&
    "$venv/bin/pip" install --quiet --disable-pip-version-check "${files[@]/#/-r}" &&
    printf '%s\n' "$wanted" >"$venv/requirements.sha256"
}

compose_file() {
  "$LOCAL/venv/bin/python" tests/scripts/check_compose.py || return
  if docker compose version >/dev/null 2>&1; then
    docker compose -f docker-compose.kafka.yml config --quiet
  fi
}

conformance() {
  local out="$LOGS/fake-sheets.out" end pid url
  # The server that the tests were built with: any other selection of packages or features would compile all it needs a second time.
  cargo test --locked --workspace --all-features --no-run || return
  "$FAKE_SHEETS" --addr 127.0.0.1:0 --quota 60 >"$out" 2>"$LOGS/fake-sheets.err" </dev/null 8>&- &
  pid=$!
  echo "$pid" >"$LOGS/fake-sheets.pid"
  end=$((SECONDS + READY_SECONDS))
  # Its first line of output is one JSON object, written when it listens.
  until url=$("$LOCAL/venv/bin/python" -c 'import json,sys; print(json.loads(sys.stdin.readline())["url"])' <"$out" 2>/dev/null); do
    if ! kill -0 "$pid" 2>/dev/null || [ "$SECONDS" -ge "$end" ]; then
      cat "$LOGS/fake-sheets.err"
      echo "fake-sheets did not announce its URL; see $LOGS/fake-sheets.err"
      return 1
    fi
    sleep 0.1
  done
  local status=0
  "$LOCAL/venv/bin/python" tests/sheets-conformance/check.py --endpoint "$url" --strict || status=$?
  stop_fake_sheets
  return $status
}

# The sum of all stages, as the last line. Services go first, so that nothing is printed after it.
finish() {
  cleanup
  printf '\n%s\nall stages: %s s\n' "$SUMMARY" $((SECONDS - BEGAN))
  echo "$PASSED passed, $FAILED failed"
  [ "$FAILED" -eq 0 ] || exit 1
  exit 0
}
# Without this stage the others would only repeat its failure.
needed() {
  "$@" || finish
}

BEGAN=$SECONDS
needed stage setup scripts/setup.sh
find_cargo
stage python-packages python_packages || true
stage scripts-parse scripts_parse || true
stage scripts-behave tests/scripts/services.sh || true
stage compose-file compose_file || true
stage format cargo fmt --all --check -- --color=never || true

pg_is_external || pg_running || STARTED_PG=1
kafka_is_external || kafka_running || STARTED_KAFKA=1
needed stage services scripts/up.sh
load_env
export PG_DSN_RW KAFKA_BROKERS
# Only the scripts know this one; the program calls unknown KYLO_* variables an error.
unset KYLO_TEST_FAST

stage sql-cache scripts/sqlx.sh --check || true
# From here on the committed cache is what is compiled against, as on any other machine.
export SQLX_OFFLINE=true
unset DATABASE_URL
stage lints cargo clippy --locked --workspace --all-targets --all-features -- -D warnings || true
RUSTDOCFLAGS='-D warnings' stage documentation \
  cargo doc --locked --no-deps --workspace --document-private-items || true
# Most of their time tests wait for brokers, leases and clocks: more of them than there are cores may do so side by side.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(($(nproc) + 1))}
stage tests "$LOCAL/venv/bin/python" tests/scripts/run_tests.py || true
stage sheets-conformance conformance || true
stage licences "$LOCAL/venv/bin/python" tests/scripts/check_licences.py || true
if have cargo-deny; then
  stage cargo-deny cargo deny --all-features check licenses bans sources || true
fi

finish
