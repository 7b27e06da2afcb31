#!/usr/bin/env bash
# Create .venv and install s2robot into it (editable, with the development tools),
# after the system packages that are missing. `make` calls it before every verb:
# it does nothing, quickly, while the interpreter, this checkout's path,
# pyproject.toml, the lock and this file are the ones it last finished with.
#
#   PYTHON=python3.12 scripts/setup.sh    choose the interpreter
#   NEWEST=1 scripts/setup.sh             not the locked versions (requirements/), but the newest that the ranges allow,
#                                         looked up once a day
#   VENV=.venvs/other scripts/setup.sh    another place than .venv
#   MUJOCO_GL=osmesa scripts/setup.sh packages    the system packages of a backend, and nothing else
#   PIP_EXTRA_INDEX_URL=... and any other setting of pip's is passed through
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly venv="${VENV:-.venv}"
readonly stamp=$venv/setup-stamp
export MUJOCO_GL="${MUJOCO_GL:-egl}"

say() { echo "setup: $*" >&2; }
fail() { say "$@"; exit 1; }

# Print the interpreter to use. The base one, so that an activated .venv does not try to rebuild itself.
# 3.14 is out: robosuite's mink needs numpy 1.26, which does not build there.
find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.12 python3.11 python3.13}; do
    "$candidate" - 2>/dev/null <<'PY' && return
import sys
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit(1)
print(sys._base_executable)
PY
  done
  fail "Python 3.11, 3.12 or 3.13 is needed; tried: ${PYTHON:-python3 python3.12 python3.11 python3.13}." \
    "On Debian 12 and 13: apt-get install python3. Elsewhere name one: make setup PYTHON=/path/to/python3.12"
}

has_library() { "$python" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$1" 2>/dev/null; }

# Print the Debian packages that are missing, one a line.
missing_packages() {
  local name include
  name="$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')"
  include="$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')"
  "$python" -c 'import ensurepip' 2>/dev/null || echo "$name-venv"
  # robosuite -> pynput -> evdev exists as source only: a C compiler, Python's and the kernel's headers.
  command -v gcc >/dev/null || echo gcc
  [ -f "$include/Python.h" ] || echo "$name-dev"
  [ -f /usr/include/linux/input.h ] || echo linux-libc-dev
  [ -f /usr/include/stdio.h ] || echo libc6-dev
  # numpy 1.26, which robosuite's mink asks for, has no wheel for 3.13.
  [ "$name" != python3.13 ] || command -v g++ >/dev/null || echo g++
  # OpenCV, which robosuite imports, links to these two.
  has_library libGL.so.1 || echo libgl1
  has_library libgthread-2.0.so.0 || echo libglib2.0-0
  # Rendering without a screen.
  case "$MUJOCO_GL" in
    egl)
      has_library libEGL.so.1 || echo libegl1
      has_library libEGL_nvidia.so.0 || compgen -G '/usr/lib*/*/dri/swrast_dri.so' >/dev/null || echo libgl1-mesa-dri
      ;;
    osmesa) has_library libOSMesa.so || has_library libOSMesa.so.8 || echo libosmesa6 ;;
  esac
}

# Install Debian packages as root or through sudo; without either, say what to run.
install_packages() {
  local -a as_root=() install=(apt-get install --yes --no-install-recommends "$@")
  command -v apt-get >/dev/null ||
    fail "missing, under Debian's names: $*. Install what this system calls them, then run the same command again."
  if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null ||
      fail "system packages are missing. Run this, then the same command again:"$'\n' \
        "   sudo apt-get update && sudo ${install[*]}"
    as_root=(sudo -n)
  fi
  say "installing system packages: $*"
  # A third-party source that does not answer must not stop Debian's own packages.
  "${as_root[@]}" apt-get update -qq || say "apt-get update reported an error; going on"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "${install[@]}" -qq >/dev/null
}

# Succeed if a context opens, which needs the libraries, a driver and the right MUJOCO_GL.
check_rendering() {
  "$venv/bin/python" - <<'PY' ||
import mujoco
context = mujoco.GLContext(64, 64)
context.make_current()
context.free()
PY
    fail "MuJoCo cannot open an OpenGL context with MUJOCO_GL=$MUJOCO_GL (error above)." \
      "Try MUJOCO_GL=osmesa (software) or, on a desktop, MUJOCO_GL=glfw."
}

# Install from $1, the lock of this Python. Every archive must have the hash that stands there, so that an installation in
# a year is the one that was tested; what exists as source only is built with the locked tools.
install_locked() {
  [ -f "$1" ] || fail "$1 is missing; \`make lock\` writes it, NEWEST=1 does without"
  "$venv/bin/python" -m pip install --require-hashes --requirement requirements/installer.txt
  "$venv/bin/python" -m pip install --require-hashes --build-constraint requirements/build.txt --requirement "$1"
  "$venv/bin/python" -m pip install --no-deps --no-build-isolation --editable .
  "$venv/bin/python" -m pip check || fail "$1 does not fit pyproject.toml (above); \`make lock\` brings them together"
}

python="$(find_python)"
lock=requirements/py$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt
case "${NEWEST:-0}" in 0) versions=locked ;; *) versions="newest of $(date +%F)" ;; esac
# Where the environment cannot be reused: another interpreter, or a moved checkout (scripts hold absolute paths).
identity="$("$python" -V) $python $PWD"
sources=(pyproject.toml scripts/setup.sh)
[ "$versions" != locked ] || sources+=("$lock" requirements/installer.txt requirements/build.txt)
dependencies="$({ cat "${sources[@]}" 2>/dev/null || true; } | sha256sum | cut -d' ' -f1) $versions"

if [ "${1:-}" = packages ]; then
  mapfile -t packages < <(missing_packages)
  [ "${#packages[@]}" -eq 0 ] || install_packages "${packages[@]}"
  exit 0
fi

if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$identity"$'\n'"$dependencies" ]; then
  exit 0
fi

mapfile -t packages < <(missing_packages)
[ "${#packages[@]}" -eq 0 ] || install_packages "${packages[@]}"

if ! { [ -x "$venv/bin/pip" ] && [ "$(head -n 1 "$stamp" 2>/dev/null)" = "$identity" ]; }; then
  if [ "$venv" != .venv ] && [ -n "$(ls -A "$venv" 2>/dev/null)" ] && ! [ -f "$stamp" ]; then
    fail "VENV=$venv is not an environment that this script made, and it would be emptied; name another folder"
  fi
  say "creating $venv with $("$python" -V) ($python)"
  "$python" -m venv --clear "$venv"
fi
# First line only: an interrupted installation is continued, neither started over nor taken for a finished one.
echo "$identity" >"$stamp"
say "installing s2robot and what it depends on (the first time: about 7 GB and a few minutes)"
if [ "$versions" != locked ]; then
  say "the newest versions that pyproject.toml allows; without NEWEST=1 the locked ones take their place again"
  "$venv/bin/python" -m pip install --upgrade --upgrade-strategy eager --editable '.[dev]'
else
  say "the versions of $lock"
  install_locked "$lock"
fi
check_rendering
printf '%s\n%s\n' "$identity" "$dependencies" >"$stamp"
say "done"
