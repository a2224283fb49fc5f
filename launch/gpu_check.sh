#!/usr/bin/env bash
# Measures on one GPU, in one call of a few minutes and without a network, what factshock does there, against PyTorch and transformers:
#
#   bash launch/gpu_check.sh [--tiny] [--minutes=9] [--output=runs/gpu_check] [--only=PART,PART] [--wheels=wheels]
#
# The results stand in OUTPUT/gpu_check.md and .json. The most telling come first, and what there was no time for is named; the same
# command again goes on with it. --tiny runs tiny shapes on any device: it shows that the script works. --only runs some parts:
# ceilings, parity, train_step and so on, as gpu_check.md has them.
# The Python is $FACTSHOCK_PYTHON, that of .venv, or a python3 that has JAX; where there is none, .venv is made (some minutes, and a
# network; they do not count). What it lacks may lie as wheels in the folder WHEELS, with parts of larger files (launch/wheels.sh
# downloads both): they are installed into .gpu_check/site, and not into that Python. MINUTES hold all else: installing the wheels,
# making the references on the CPU, and measuring. The references are kept in .gpu_check/references.npz (or where
# $FACTSHOCK_GPU_REFERENCES says): made beforehand (python -m gpu.references) and copied along, they leave more time.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

KEPT=.gpu_check  # what one call makes for the next: git ignores it

# Sets `python`.
choose_python() {
  if [ -n "${FACTSHOCK_PYTHON:-}" ]; then
    python="$FACTSHOCK_PYTHON"
    command -v "$python" >/dev/null || fail "FACTSHOCK_PYTHON=$python: expected an interpreter, got nothing that runs"
  elif [ -x .venv/bin/python ]; then
    python=.venv/bin/python
  elif python3 -c "import jax" 2>/dev/null; then
    python=python3
  else
    bash launch/setup.sh "$([ -n "$tiny" ] && echo "test" || gpu_extra)"
    python=.venv/bin/python
    SECONDS=0
  fi
}

# Joins the parts of each file of the folder $1 in $KEPT/joined, unless that is done.
join_parts() {
  local first name joined
  for first in "$1"/*.part-000; do
    [ -e "$first" ] || return 0
    name="$(basename "${first%.part-000}")"
    joined="$KEPT/joined/$name"
    [ -f "$1/$name.sha256" ] || fail "$1/$name.sha256: expected the digest of the parts beside them, got no file there"
    ! is_whole "$1/$name.sha256" || continue
    mkdir -p "$KEPT/joined"
    cat "${first%000}"* >"$joined"
    is_whole "$1/$name.sha256" || { rm "$joined"; fail "$1/$name.part-*: parts are missing or damaged: their digest is another"; }
  done
}

# Whether the joined file has the digest of the file $1, which names it.
is_whole() {
  local sums
  sums="$(realpath "$1")"
  (cd "$KEPT/joined" 2>/dev/null && sha256sum --check --status "$sums" 2>/dev/null)
}

# Sets `site`, where the wheels of the folder $1 are installed: once.
install_wheels() {
  local files=() file stamp
  join_parts "$1"
  for file in "$1"/*.whl "$KEPT"/joined/*.whl; do
    [ ! -e "$file" ] || files+=("$file")
  done
  [ ${#files[@]} -gt 0 ] || return 0
  site="$PWD/$KEPT/site"
  stamp="$("$python" --version) $(cksum "${files[@]}" | cksum)"
  [ "$(cat "$site/installed" 2>/dev/null)" != "$stamp" ] || return 0
  rm -rf "$site"
  mkdir -p "$KEPT"
  "$python" -m pip install -q --disable-pip-version-check --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target "$site" "${files[@]}" >"$KEPT/pip.log" 2>&1 || fail "the wheels of $1 cannot be installed: $(tail -n 1 "$KEPT/pip.log")"
  echo "$stamp" >"$site/installed"
}

check_modules() {
  local missing
  missing="$("$python" tests/gpu/needs.py 2>"$KEPT/needs.log")" ||
    fail "$python lacks modules: ${missing:-$(tail -n 1 "$KEPT/needs.log")}; launch/wheels.sh downloads them into a folder for --wheels"
}

# Whoever needs them checks them, and makes them anew where they are of another version.
make_references() {
  local name=references.npz
  [ -z "$tiny" ] || name=references_tiny.npz
  export FACTSHOCK_GPU_REFERENCES="${FACTSHOCK_GPU_REFERENCES:-$PWD/$KEPT/$name}"
  [[ -z "$only" || ",$only," == *,parity,* ]] || return 0
  [ ! -f "$FACTSHOCK_GPU_REFERENCES" ] || return 0
  echo "making the references on the CPU"
  JAX_PLATFORMS=cpu "$python" -m gpu.references "--output=$FACTSHOCK_GPU_REFERENCES" ${tiny:+--tiny} ||
    echo "note: without references, there is no parity to be seen" >&2
}

minutes=9 wheels="" only="" tiny="" arguments=()
for argument in "$@"; do
  case "$argument" in
    --minutes=*) minutes="${argument#*=}" ;;
    --wheels=*) wheels="${argument#*=}" ;;
    --only=*) only="${argument#*=}"; arguments+=("$argument") ;;
    --tiny) tiny=yes; arguments+=("$argument") ;;
    --output=*) arguments+=("$argument") ;;
    --help | -h) usage gpu_check.sh; exit 0 ;;
    *) fail "unknown option $argument (bash launch/gpu_check.sh --help)" ;;
  esac
done
[[ "$minutes" =~ ^[0-9]+(\.[0-9]+)?$ ]] || fail "--minutes=$minutes: expected a number such as 9 or 2.5"
[ -z "$wheels" ] || [ -d "$wheels" ] || fail "--wheels=$wheels: expected a folder of wheels, got none there (launch/wheels.sh)"

SECONDS=0
choose_python
mkdir -p "$KEPT"
site=""
wheels="${wheels:-wheels}"
[ ! -d "$wheels" ] || install_wheels "$wheels"
export PYTHONPATH="$PWD:$PWD/tests${site:+:$site}${PYTHONPATH:+:$PYTHONPATH}"
check_modules
make_references
left="$(awk "BEGIN { left = $minutes - $SECONDS / 60; printf \"%.2f\", (left > 0 ? left : 0) }")"
exec "$python" -m gpu.check "--minutes=$left" "${arguments[@]+"${arguments[@]}"}"
