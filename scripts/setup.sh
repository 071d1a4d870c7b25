#!/usr/bin/env bash
# Usage: scripts/setup.sh [--n8n]
#
# Installs what building, testing and the demo need on a bare Debian or Ubuntu, through the system's
# package client: PostgreSQL, Java 17, Maven, a C toolchain, OpenSSL and zlib headers, Python with venv,
# Node.js (it runs the code of the n8n workflows in tests), git, curl, and Rust where cargo is missing or too old. Where all of it is there, it does nothing and
# ends within a second. Needs root or sudo only when something is missing.
#
#   --n8n   npm, too, with which scripts/n8n.sh installs n8n

# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

NPM=0
case ${1:-} in
  '') ;;
  --n8n) NPM=1 ;;
  -h | --help)
    usage "$0"
    exit 0
    ;;
  *) wrong_call "unknown argument '$1'" ;;
esac

# What a machine without Rust gets: the version the sources were last checked with. The newest one may have
# lints that nobody has seen yet, and lints are errors in scripts/test.sh.
RUST_TESTED=1.95.0
RUST_MIN=$(sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' "$ROOT/Cargo.toml" | head -n1)

# Is version $1 at least $2?
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n1)" = "$2" ]; }

rust_is_fine() {
  local version
  have cargo && version=$(cd "$ROOT" && cargo --version 2>/dev/null) || return 1
  version=${version#cargo }
  at_least "${version%% *}" "$RUST_MIN" || return 1
  (cd "$ROOT" && cargo fmt --version && cargo clippy --version) >/dev/null 2>&1
}

NODE_MIN=16
node_is_fine() { have node && node -e "process.exit(parseInt(process.versions.node) < $NODE_MIN ? 1 : 0)" 2>/dev/null; }

# --- What is missing ------------------------------------------------------------------------

missing=()
[ -n "$(pg_bin)" ] || missing+=(postgresql)
[ -n "$(java_bin)" ] || missing+=(java)
have mvn || missing+=(maven)
{ have cc && have make && have c++; } || missing+=(build-essential)
have pkg-config || missing+=(pkg-config)
have pkg-config && pkg-config --exists openssl || missing+=(libssl-dev)
have pkg-config && pkg-config --exists zlib || missing+=(zlib1g-dev)
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
# A Node.js that is too old is not replaced: the package manager has no other.
have node || missing+=(nodejs)
[ "$NPM" = 0 ] || have npm || missing+=(npm)
have git || missing+=(git)
have curl || missing+=(curl)
[ -s /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
{ have setpriv && have flock; } || missing+=(util-linux)

# Only tests/workflows.rs needs it, which says so: a release whose packages are older can do everything else.
warn_of_old_node() { node_is_fine || say "setup: this system's Node.js is older than $NODE_MIN: install a newer one to run tests/workflows.rs"; }

if [ ${#missing[@]} -eq 0 ] && rust_is_fine; then
  warn_of_old_node
  say 'setup: everything is there'
  exit 0
fi

# --- Installing -----------------------------------------------------------------------------

have apt-get || die "this script installs with apt-get only; please install by hand: ${missing[*]:-} and Rust >= $RUST_MIN with clippy and rustfmt"

can_be_root() { [ "$(id -u)" -eq 0 ] || have sudo; }
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif have sudo; then
    sudo "$@"
  else
    die "root rights are needed to install packages and sudo is missing; as root, run: $ROOT/scripts/setup.sh"
  fi
}
mkdir -p "$LOCAL"
LOG="$LOCAL/setup.log"
: >"$LOG"
# What dpkg has to tell is of interest only when it fails.
apt() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Dpkg::Use-Pty=0 "$@" </dev/null >>"$LOG" 2>&1 && return
  grep -E '^(E|W|Err|dpkg): ?' "$LOG" | tail -n 10 >&2
  return 1
}
candidate() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: *//p' | grep -v '(none)' || true; }

updated=0
install() {
  say "setup: installing $*"
  if [ "$updated" = 0 ]; then
    apt update || die 'apt-get update failed: check the network and /etc/apt/sources.list; the whole log is '"$LOG"
    updated=1
  fi
  apt install --no-install-recommends "$@" || die "apt-get could not install $*; the whole log is $LOG"
}

# Installing the server would also start a cluster on port 5432, which nobody asked for and which
# would stand in the way of docker-compose.kafka.yml. Scripts make their own cluster.
install_postgresql() {
  local conf=/etc/postgresql-common/createcluster.d/kylo-setup.conf status=0
  as_root mkdir -p "${conf%/*}"
  echo 'create_main_cluster = false' | as_root tee "$conf" >/dev/null
  (install postgresql) || status=$?
  as_root rm -f "$conf"
  updated=1
  return "$status"
}

# Not every release has Java 17; any newer one runs the broker too.
install_java() {
  local name
  install ca-certificates
  for name in openjdk-17-jre-headless openjdk-21-jre-headless openjdk-25-jre-headless default-jre-headless; do
    if [ -n "$(candidate "$name")" ]; then
      install "$name"
      return
    fi
  done
  die "no package for Java >= $JAVA_MIN found"
}

rustup_toolchain() {
  rustup toolchain install "$RUST_TESTED" --profile minimal --component clippy --component rustfmt >&2 || return
  rustup default >/dev/null 2>&1 || rustup default "$RUST_TESTED" >&2 || return
  # A default that is too old stays the default: only this folder is switched.
  rust_is_fine || rustup override set "$RUST_TESTED" --path "$ROOT" >&2
}

install_rust() {
  say "setup: installing Rust $RUST_TESTED with clippy and rustfmt"
  # Rust needs no root rights: without them, rustup installs itself into the home folder.
  if ! have rustup && can_be_root; then
    if [ -n "$(candidate rustup)" ]; then
      install rustup
    elif at_least "$(candidate cargo | sed 's/^[0-9]*://;s/[^0-9.].*//')" "$RUST_MIN"; then
      install cargo rustc rust-clippy rustfmt
      return
    fi
  fi
  if have rustup; then
    rustup_toolchain
  else
    have curl || die 'curl is missing and there are no root rights to install it'
    curl --proto '=https' --tlsv1.2 -sSf https://static.rust-lang.org/rustup/rustup-init.sh |
      RUSTUP_INIT_SKIP_PATH_CHECK=yes sh -s -- -y -q --profile minimal \
        --default-toolchain "$RUST_TESTED" --component clippy --component rustfmt >&2 || return
    find_cargo
  fi
}

plain=()
for name in "${missing[@]}"; do
  case $name in
    java | postgresql) ;;
    *) plain+=("$name") ;;
  esac
done
# Java before Maven: Maven alone would bring the release's default Java, too.
case " ${missing[*]:-} " in *' java '*) install_java ;; esac
[ ${#plain[@]} -eq 0 ] || install "${plain[@]}"
case " ${missing[*]:-} " in *' postgresql '*) install_postgresql ;; esac
rust_is_fine || install_rust || die "Rust could not be installed: check the network, or install Rust >= $RUST_MIN with clippy and rustfmt yourself"

[ -n "$(pg_bin)" ] || die "PostgreSQL is installed, but no version >= $PG_MIN was found in /usr/lib/postgresql or PATH"
[ -n "$(java_bin)" ] || die "Java is installed, but no version >= $JAVA_MIN was found in JAVA_HOME, PATH or /usr/lib/jvm"
warn_of_old_node
rust_is_fine || die "Rust is still older than $RUST_MIN or lacks clippy or rustfmt: update it with rustup (https://rustup.rs)"
say 'setup: done'
