#!/usr/bin/env bash
# Usage: scripts/sqlx.sh [--prepare | --check]
#
# Queries are checked against a real schema while compiling; `.sqlx/` holds what the compiler learned,
# so that everyone else builds without a database. Run this after changing SQL or ddl/.
#
# Without arguments: makes the scratch database anew from ddl/ and writes its URL to
# .local/database_url, for use while editing:   DATABASE_URL=$(cat .local/database_url) cargo check
#
#   --prepare   then compiles against it and replaces .sqlx/ with what came out; commit the result
#   --check     then compiles against it and fails when .sqlx/ is not what came out. Remembers a
#               success, and is a no-op until a source or ddl file changes
#
# The server is PG_DSN_RW or the one scripts/up.sh has started; its user must be allowed to create
# databases.

# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mode=database
case ${1:-} in
  '') ;;
  --prepare) mode=prepare ;;
  --check) mode=check ;;
  -h | --help)
    usage "$0"
    exit 0
    ;;
  *) wrong_call "unknown argument '$1'" ;;
esac
[ $# -le 1 ] || wrong_call 'one argument at most'
cd "$ROOT"

# Everything a query's meaning or its cache depends on.
inputs_checksum() {
  # A folder that does not exist (yet) is no error.
  { find ddl src tests benches fake-sheets/src .sqlx Cargo.toml Cargo.lock scripts/sqlx.sh -type f \
    \( -name '*.rs' -o -name '*.sql' -o -name '*.json' -o -name 'Cargo.*' -o -name sqlx.sh \) -print0 2>/dev/null || true; } |
    LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1
}
if [ "$mode" = check ] && [ "$(cat "$LOCAL/sqlx.ok" 2>/dev/null || true)" = "$(inputs_checksum)" ]; then
  say 'sqlx: nothing has changed since the last successful check'
  exit 0
fi

# --- The scratch database -------------------------------------------------------------------

ls ddl/control/*.sql ddl/company/*.sql >/dev/null 2>&1 || die 'no migrations found in ddl/control and ddl/company'
load_env
[ -n "${PG_DSN_RW:-}" ] || die 'no PostgreSQL: run scripts/up.sh --only postgres first, or set PG_DSN_RW'
[[ $PG_DSN_RW =~ ^(postgres(ql)?://[^/?]+)(/[^?]*)?(\?.*)?$ ]] ||
  die 'PG_DSN_RW must look like postgres://user:password@host:port/database'
server=${BASH_REMATCH[1]} options=${BASH_REMATCH[4]}
database="kylo_sqlx_$REPO_ID"
url="$server/$database$options"
psql=$(psql_bin)
run_sql() { PGOPTIONS="-c client_min_messages=warning ${PGOPTIONS:-}" "$psql" -XqAt -v ON_ERROR_STOP=1 "$@" >/dev/null; }

run_sql "$PG_DSN_RW" -c "drop database if exists $database with (force)" ||
  die "could not drop database $database with the user of PG_DSN_RW"
run_sql "$PG_DSN_RW" -c "create database $database" ||
  die "could not create database $database: does the user of PG_DSN_RW have CREATEDB?"
for file in ddl/control/*.sql; do
  run_sql "$url" -f "$file" || die "$file failed (applied to an empty database, after its predecessors)"
done
run_sql "$url" -c 'create schema company_dev'
for file in ddl/company/*.sql; do
  PGOPTIONS='-c search_path=company_dev' run_sql "$url" -f "$file" ||
    die "$file failed (applied with search_path = company_dev, after its predecessors)"
done
run_sql "$url" -c "alter database $database set search_path = company_dev, public"
mkdir -p "$LOCAL"
(umask 077 && printf '%s\n' "$url" >"$LOCAL/database_url")
if [ "$mode" = database ]; then
  printf '%s\n' "$url"
  exit 0
fi

# --- The query cache ------------------------------------------------------------------------

# A macro writes its cache file only when its crate is compiled, and only into a folder that exists.
found="$LOCAL/sqlx.new"
rm -rf "$found"
mkdir -p "$found"
find src tests benches fake-sheets/src -name '*.rs' -exec touch {} + 2>/dev/null || true
# The check compiles as the lints do: whoever runs both waits for one of them.
compile=(cargo check --locked --workspace --all-targets --all-features)
[ "$mode" = prepare ] || compile=(cargo clippy --locked --workspace --all-targets --all-features -- -D warnings)
SQLX_OFFLINE_DIR="$found" SQLX_OFFLINE=false DATABASE_URL="$url" "${compile[@]}" >&2 ||
  die 'the sources do not compile, or not without a warning, against the schema in ddl/'
mkdir -p .sqlx
n=$(find "$found" -name 'query-*.json' | wc -l)
if [ "$mode" = prepare ]; then
  rm -rf .sqlx
  mv "$found" .sqlx
  inputs_checksum >"$LOCAL/sqlx.ok"
  say "sqlx: .sqlx holds $n queries; commit it"
elif diff -rq .sqlx "$found" >&2; then
  rm -rf "$found"
  inputs_checksum >"$LOCAL/sqlx.ok"
  say "sqlx: .sqlx is up to date ($n queries)"
else
  die '.sqlx is stale: run scripts/sqlx.sh --prepare and commit the result'
fi
