#!/usr/bin/env bash
# Makes .venv with factshock and the extras that are named, once; the other scripts do it by this one:
#
#   bash launch/setup.sh
#   bash launch/setup.sh gpu
#   bash launch/setup.sh test,docs
#
# Uses the first Python from 3.11 to 3.13 on the PATH, or $PYTHON. The extras stand in setup.py.
[ "${BASH_SOURCE[0]}" != "$0" ] || source "$(dirname "$0")/help.sh" "$@"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras="${1:-}"

fail() { echo "error: $*" >&2; exit 1; }

[[ "$extras" =~ ^[a-z0-9_,]*$ ]] || fail "expected the extras of setup.py with commas between them, got $extras"

find_python() {
  local name
  for name in ${PYTHON:-python3.12 python3.11 python3.13 python3 python}; do
    if command -v "$name" >/dev/null &&
       "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$name"; return
    fi
  done
  return 1
}

# The stamp names what is installed, so that a second run starts at once, without a network.
stamp="$(cat setup.py pyproject.toml | cksum | cut -d' ' -f1)-${extras}"
if [ ! -x .venv/bin/python ]; then
  python="$(find_python)" || fail "factshock needs Python 3.11, 3.12 or 3.13; none was found (set PYTHON=/path/to/python)"
  echo "making .venv with $("$python" --version)"
  "$python" -m venv .venv || { rm -rf .venv; fail "$python cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv)"; }
fi
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then  # as in one that uv has made
  .venv/bin/python -m ensurepip >/dev/null || fail ".venv has no pip; remove it, and this script makes it"
fi
if ! grep -qxs -- "$stamp" .venv/factshock-installed; then
  echo "installing factshock${extras:+ with the extra [$extras]} into .venv (about 1 GB, some minutes; log: .venv/install.log)"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".${extras:+[$extras]}" >.venv/install.log 2>&1 ||
    { tail -n 20 .venv/install.log >&2; fail "the installation failed; the whole log is .venv/install.log"; }
  echo "$stamp" >>.venv/factshock-installed
fi
