#!/usr/bin/env bash
# Usage: scripts/kafka_topics.sh [arguments of `kylo topics ensure`]
#
# Creates Kylo's three topics where they are missing, each kept for 90 days:
#
#     txns.company.batches     16 partitions    KAFKA_TOPIC_TXNS
#     rules.promote.requests    8 partitions    KAFKA_TOPIC_PROMOTE
#     kylo.events               8 partitions    KAFKA_TOPIC_EVENTS
#
# A topic that exists is left as it is: partitions are never added. Run it as often as you like.
# The broker is KAFKA_BROKERS, or the one scripts/up.sh has started, or localhost:9092.
# Uses target/release/kylo or target/debug/kylo, whichever is newer, or builds it.

# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in
  -h | --help)
    usage "$0"
    exit 0
    ;;
esac

load_env
target=${CARGO_TARGET_DIR:-$ROOT/target}
kylo=$(ls -t "$target/release/kylo" "$target/debug/kylo" 2>/dev/null | head -n1 || true)
if [ -z "$kylo" ]; then
  have cargo || die 'cargo is missing: run scripts/setup.sh'
  say 'topics: building kylo'
  (cd "$ROOT" && SQLX_OFFLINE=true cargo build --locked --quiet --bin kylo)
  kylo="$target/debug/kylo"
fi
exec "$kylo" topics ensure "$@"
