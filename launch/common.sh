# Sourced by the scripts that start runs (gpu.sh, local_processes.sh, slurm.sbatch, tpu_vm.sh, tpu_worker.sh).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
dry_run=false

# What the user can put right: one line on stderr and exit code 2, as the verbs themselves do.
fail() { echo "error: $*" >&2; exit 2; }

# The comment at the head of launch/$1 is its help.
usage() { sed -n '2,${/^#/!q;s/^# \{0,1\}//p;}' "launch/$1"; }

# An option of the script itself, before the verb: common_option SCRIPT OPTION.
common_option() {
  case "$2" in
    --dry_run | --dry-run) dry_run=true ;;
    --help | -h) usage "$1"; exit 0 ;;
    *) fail "unknown option $2 (the verb's own flags come after the verb; bash launch/$1 --help)" ;;
  esac
}

# The arguments as one line that a shell reads back as the same arguments (printf %q would escape every comma).
quoted() {
  local word line="" plain='^[A-Za-z0-9_./:=,@%+-]+$'
  for word in "$@"; do
    [[ "$word" =~ $plain ]] || word="'${word//\'/\'\\\'\'}'"
    line+="$word "
  done
  echo "${line% }"
}

# Runs a command, or prints it under --dry_run.
run() { if $dry_run; then quoted "$@"; else "$@"; fi; }

# The last command of a script: in its place, so that signals reach it.
run_last() { if $dry_run; then quoted "$@"; else exec "$@"; fi; }

# A verb that several processes can run as one, or that they can share: distributed_verb SCRIPT VERB.
distributed_verb() {
  local verbs="answer, extract, train or experiment"
  case "$2" in
    answer | extract | train | experiment) ;;
    "") fail "which verb? $verbs (bash launch/$1 --help)" ;;
    *) fail "the verb is $verbs, not $2 (bash launch/$1 --help)" ;;
  esac
}

# Whether the processes of verb $1 work as one and must find one another; those of answer and extract each take what no other is at.
works_as_one() { [ "$1" != answer ] && [ "$1" != extract ]; }

# The value of the flag --$1 among the other arguments.
value_of() {
  local name="$1"
  shift
  while [ $# -gt 0 ]; do
    case "$1" in
      "--$name="* | "-$name="*) echo "${1#*=}" ;;
      "--$name" | "-$name") echo "${2:-}" ;;
    esac
    shift
  done
}

# The extra with JAX for the CUDA that the NVIDIA driver here can run: CUDA 13 needs driver 580 or a later one.
gpu_extra() {
  local driver=""
  read -r driver < <(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null) || true
  if [[ "$driver" =~ ^([0-9]+)\. ]] && [ "${BASH_REMATCH[1]}" -lt 580 ]; then echo gpu_cuda12; else echo gpu; fi
}

# Sets `python`: that of .venv, made with the extra $1 (launch/setup.sh); or $FACTSHOCK_PYTHON, an interpreter that has factshock already.
# shellcheck disable=SC2034  # its callers use it
prepare_python() {
  python="${FACTSHOCK_PYTHON:-.venv/bin/python}"
  [ -n "${FACTSHOCK_PYTHON:-}" ] || run bash launch/setup.sh "$1"
}
