#!/usr/bin/env bash
# Write requirements/*.txt: for each Python the exact versions, with hashes, that scripts/setup.sh installs.
# Versions that the files name already are kept while the ranges in pyproject.toml allow them.
#
#   UPGRADE=1 scripts/lock.sh                 take the newest that the ranges allow
#   UV_CONSTRAINT=FILE and any other setting of uv's is passed through
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly venv=.venvs/lock
case "${UPGRADE:-0}" in 0) upgrade=() ;; *) upgrade=(--upgrade) ;; esac
readonly uv=$venv/bin/uv

[ -x "$uv" ] || { python3 -m venv --clear "$venv" && "$venv/bin/python" -m pip install --quiet 'uv>=0.9,<1'; }

# $1: what is asked for, $2: the file to write, the rest: further options.
compile() {
  local input=$1 output=$2
  shift 2
  echo "lock: $output" >&2
  "$uv" pip compile --quiet --universal --custom-compile-command 'make lock' "${upgrade[@]}" "$@" \
    "$input" --output-file "$output"
}

for version in 3.11 3.12 3.13; do
  compile pyproject.toml "requirements/py$version.txt" --extra dev --python-version "$version" --generate-hashes
done
compile requirements/installer.in requirements/installer.txt --python-version 3.11 --generate-hashes
# Constraints: pip has no hashes for what it builds with.
compile requirements/build.in requirements/build.txt --python-version 3.11
