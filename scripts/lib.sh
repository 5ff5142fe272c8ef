# What every script here starts with: strict mode, the repository's root as working folder, one voice.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1 DEBIAN_FRONTEND=noninteractive
script=$(basename "$0")

say() { echo "$script: $*"; }
fail() {
  echo "$script: $*" >&2
  exit 1
}

# require COMMAND HINT: ends with the hint where the command is missing.
require() { command -v "$1" >/dev/null || fail "$1 is missing; $2"; }

is_root() { [ "$(id -u)" = 0 ]; }

# Folder of the Postgres programs: the newest of the system, else the wheel's. Empty where there is none.
postgres_bin() {
  local found
  found=$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -1)
  if [ -z "$found" ] && [ -x .deps/postgres/bin/initdb ]; then found=$PWD/.deps/postgres/bin/initdb; fi
  [ -z "$found" ] || dirname "$found"
}

# Refreshes apt's lists, at most once in a script.
apt_update() {
  [ -z "${apt_updated:-}" ] || return 0
  is_root || fail "apt's package lists are too old or missing, and only root can refresh them: run apt-get update"
  say "refreshing apt's package lists"
  apt-get update -qq
  apt_updated=1
}

# apt_install PACKAGE...: what is installed already stays as it is.
apt_install() {
  apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 && return
  apt_update
  apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
