#!/usr/bin/env bash
# Downloads what a GPU machine without a network lacks to run factshock; launch/gpu_check.sh installs it there:
#
#   bash launch/wheels.sh [--output=wheels] [--python=3.12] [--have=tests/gpu/image_packages.txt]
#   bash launch/wheels.sh --model=PACKAGE==VERSION [--output=wheels] [--python=3.12]
#
# HAVE lists the packages that are there, by lines or commas, NAME or NAME==VERSION. uv works out what factshock[gguf] needs, for that
# Python on Linux (x86-64); what is not there is downloaded into OUTPUT, in the place of the wheels there before. The list is
# printed with its sizes. Over 60 MB, which is what can be carried at once, is an error.
# --model downloads that package alone, whose size does not count, and cuts it into parts of 50 MB (NAME.part-000 and so on, and
# their digest), to be carried one after the other; gpu_check.sh joins them.
# Needs uv (pip install uv), as pip takes over ten minutes to work it out, and pip from 22.3 on: that of $FACTSHOCK_PYTHON, of .venv, or
# of python3.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

PART=48M  # of 2^20 bytes: leaves room for the code and the wheels
# pip takes the platforms as they are spelt: none implies an older one.
PLATFORMS=(2_28 2_27 2_26 2_24 2_17 2014 2010 1)

# pip for the machine's Python and platform: for_machine COMMAND ARGUMENTS. What it says comes only where it fails.
for_machine() {
  local platforms=() platform log
  for platform in "${PLATFORMS[@]}"; do
    [[ "$platform" != 2_* ]] || platform="_$platform"
    platforms+=("--platform=manylinux${platform}_x86_64")
  done
  log="$temporary/pip.log"
  "$pip_python" -m pip "$1" --quiet --disable-pip-version-check --only-binary=:all: --implementation=cp \
    "--python-version=$python_version" "${platforms[@]}" "${@:2}" >"$log" 2>&1 ||
    fail "pip $1 failed: $(grep -v WARNING "$log" | tail -n 1)"
}

# Downloads packages, without what they need, into the empty folder $1.
download() { for_machine download --no-deps "--dest=$1" "${@:2}"; }

wheels() {
  local needed
  "$pip_python" tests/gpu/wheels.py pins "$have" >"$temporary/pins.txt"
  command -v uv >/dev/null || fail "uv is needed to work out what is missing; install it: pip install uv"
  uv pip compile --quiet setup.py --extra=gguf "--python-version=$python_version" --python-platform=x86_64-manylinux_2_28 \
    "--constraint=$temporary/pins.txt" --no-header --no-annotate "--output-file=$temporary/needed.txt" >"$temporary/uv.log" 2>&1 ||
    fail "uv pip compile failed: $(tail -n 1 "$temporary/uv.log")"
  mapfile -t needed < <("$pip_python" tests/gpu/wheels.py missing "$have" "$temporary/needed.txt")
  download "$temporary/wheels" "${needed[@]}"
  mkdir -p "$output"
  rm -f "$output"/*.whl
  mv "$temporary"/wheels/*.whl "$output"
  "$pip_python" tests/gpu/wheels.py sizes "$output"
}

# A part is whole or not there, but only the digest says whether all are.
parts() {
  local name file
  download "$temporary/model" "$model"
  mkdir -p "$output"
  for file in "$temporary"/model/*; do
    name="$(basename "$file")"
    rm -f "$output/$name".part-*
    (cd "$temporary/model" && sha256sum "$name") >"$output/$name.sha256"
    split --bytes="$PART" --numeric-suffixes --suffix-length=3 "$file" "$output/$name.part-"
    du --apparent-size --block-size=1000000 "$output/$name".part-* | sed 's/\t/ MB  /'
  done
}

output=wheels python_version=3.12 have=tests/gpu/image_packages.txt model=""
for argument in "$@"; do
  case "$argument" in
    --output=*) output="${argument#*=}" ;;
    --python=*) python_version="${argument#*=}" ;;
    --have=*) have="${argument#*=}" ;;
    --model=*) model="${argument#*=}" ;;
    --help | -h) usage wheels.sh; exit 0 ;;
    *) fail "unknown option $argument (bash launch/wheels.sh --help)" ;;
  esac
done
[ -f "$have" ] || fail "$have: expected a list of packages, got no file there (--have)"
[ -z "$model" ] || [[ "$model" == ?*==?* ]] || fail "--model=$model: expected PACKAGE==VERSION"

pip_python=python3
[ ! -x .venv/bin/python ] || pip_python=.venv/bin/python
pip_python="${FACTSHOCK_PYTHON:-$pip_python}"
temporary="$(mktemp -d)"
trap 'rm -rf "$temporary"' EXIT
if [ -n "$model" ]; then parts; else wheels; fi
