#!/usr/bin/env bash
# Usage: scripts/kafka/fetch.sh
#
# Fetches Apache Kafka's jars (about 45 MB) with Maven into .local/kafka/jars. Does nothing when they
# are complete and scripts/kafka/pom.xml has not changed since.
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case ${1:-} in
  '') ;;
  -h | --help)
    usage "$0"
    exit 0
    ;;
  *) wrong_call "unknown argument '$1'" ;;
esac

dir="$LOCAL/kafka"
pom="$ROOT/scripts/kafka/pom.xml"
listing="$dir/jars.list"

# The list holds the checksum of the pom and each jar's name and size.
current_list() {
  sha256sum <"$pom" | cut -d' ' -f1
  (cd "$dir/jars" && stat -c '%n %s' -- *.jar | LC_ALL=C sort)
}

if [ -s "$listing" ] && [ -d "$dir/jars" ] && cmp -s "$listing" <(current_list 2>/dev/null); then
  exit 0
fi

have mvn || die 'mvn is missing: run scripts/setup.sh'
mkdir -p "$dir"
rm -rf "$dir/jars.new"
say 'kafka: fetching its jars with Maven (once, about 45 MB)'
mvn -B -ntp -f "$pom" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
  -DincludeScope=runtime -DoutputDirectory="$dir/jars.new" >"$dir/maven.log" 2>&1 || {
  grep -E '^\[ERROR\]' "$dir/maven.log" | head -n 5 >&2 || true
  die "Maven could not fetch Kafka's jars: check the network or your Maven mirror settings; the whole log is $dir/maven.log"
}
rm -rf "$dir/jars" "$dir/kafka.jsa"
mv "$dir/jars.new" "$dir/jars"
current_list >"$listing"
say "kafka: $(find "$dir/jars" -name '*.jar' | wc -l) jars in $dir/jars"
