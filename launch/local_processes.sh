#!/usr/bin/env bash
# Runs a verb in N processes of this machine that work together, each on its share of the cores:
#
#   bash launch/local_processes.sh [--dry_run] [--port=PORT] [--logs=DIR] N VERB ARGUMENTS
#   bash launch/local_processes.sh 2 train --config=t5_v1_1_small --workdir=runs/x
#   bash launch/local_processes.sh 2 answer --model=MODEL --facts=facts.jsonl --output=answers.jsonl
#
# VERB is train or experiment, whose processes work as one and meet on PORT of the loopback (a free one unless named), or answer
# or extract --model, whose processes share the questions part by part. Process I writes
# DIR/process-I.log (WORKDIR.logs unless named, runs/logs without a workdir), process 0 on the terminal too. SIGTERM and Ctrl-C
# are passed on to all: the run saves itself and the exit code is 75, the same command goes on. Where one fails, the end of its
# log is shown, the others are ended, and the exit code is that of the first that failed.
# It is for CPUs, for trying what several machines will do: the GPUs of one machine are better driven by one process
# (launch/gpu.sh). --config.cpu_devices is left to you. JAX_PLATFORMS is cpu unless it is set; $FACTSHOCK_PYTHON names an
# interpreter that has factshock already, otherwise .venv is made.
# --dry_run before N prints the commands and runs none; after the verb, it is the verb's own flag.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

GRACE=60  # seconds that the others have to end by themselves after one has failed

# The core numbers this process may use, such as "0 1 2 5"; nothing where that cannot be said or set (macOS).
cores() {
  local part
  command -v taskset >/dev/null || return 0
  for part in $(taskset -cp $$ | sed 's/.*: //; s/,/ /g'); do seq "${part%-*}" "${part#*-}"; done
}

# Process $1's share of the cores as "0,1"; nothing where there are fewer cores than processes.
share() {
  local all
  read -r -d "" -a all < <(cores) || true  # read to the end of the file "fails"
  [ "${#all[@]}" -ge "$count" ] || return 0
  local first=$(($1 * ${#all[@]} / count)) after=$((($1 + 1) * ${#all[@]} / count))
  local IFS=,
  echo "${all[*]:first:after-first}"
}

# A port below those that the system gives to outgoing connections, on which nobody listens.
free_port() {
  local candidate
  while true; do
    candidate=$((20000 + RANDOM % 12000))
    (exec 4<>"/dev/tcp/127.0.0.1/$candidate") 2>/dev/null || break
  done
  echo "$candidate"
}

# Sets `command` for process $1.
command_of() {
  local cores_of_process together=()
  cores_of_process="$(share "$1")"
  ! works_as_one "$verb" || together=("--coordinator=127.0.0.1:$port" "--processes=$count" "--process=$1")
  command=(env "JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}" ${cores_of_process:+taskset -c "$cores_of_process"}
           "$python" -m "factshock.$verb" "${arguments[@]+"${arguments[@]}"}"
           "${together[@]+"${together[@]}"}")
}

log_of() { echo "$logs/process-$1.log"; }

pids=()  # by number of process, empty where it has ended

# Sends signal $1 to all that still run.
pass_on() {
  local i
  for ((i = 0; i < ${#pids[@]}; i++)); do
    [ -z "${pids[i]}" ] || kill "-$1" "${pids[i]}" 2>/dev/null || true
  done
}

start_all() {
  local i
  mkdir -p "$logs"
  # What process 0 prints must not end with the terminal: a signal that is meant for the run would take tee along.
  exec 3> >(trap '' INT TERM HUP; exec tee -a "$(log_of 0)")
  tee_pid=$!
  # Job control gives each process a group of its own, so that Ctrl-C reaches it once, through pass_on: to a verb, a second
  # one means "stop at once".
  set -m
  for ((i = 0; i < count; i++)); do
    command_of "$i"
    if [ "$i" = 0 ]; then
      "${command[@]}" </dev/null >&3 2>&1 3>&- &
    else
      "${command[@]}" </dev/null >>"$(log_of "$i")" 2>&1 3>&- &
    fi
    pids[i]=$!
  done
  set +m
}

# Notes that process $1 has ended with code $2: 75 (saved, goes on later) is no failure, and the others are saving themselves then.
note_end() {
  pids[$1]=""
  left=$((left - 1))
  if [ "$2" = 0 ] || [ "$2" = 75 ]; then
    [ "$failed" != 0 ] || [ "$2" = 0 ] || saved=75
    return
  fi
  [ "$failed" = 0 ] || return 0
  failed="$2"
  deadline=$((SECONDS + GRACE))
  echo "error: process $1 ended with exit code $2; the others are ended. The end of $(log_of "$1"):" >&2
  tail -n 20 "$(log_of "$1")" >&2
  pass_on TERM
}

# Waits for all; polls, because the wait for any one of several processes differs between versions of bash.
wait_for_all() {
  local i code
  while [ "$left" -gt 0 ]; do
    { sleep 0.25; } 2>/dev/null || true  # a signal to the whole group ends it too, which bash would remark on
    for ((i = 0; i < count; i++)); do
      if [ -n "${pids[i]}" ] && ! kill -0 "${pids[i]}" 2>/dev/null; then
        code=0
        wait "${pids[i]}" 2>/dev/null || code=$?
        [ "$code" = 0 ] || [ "$code" = 75 ] || kill -KILL -- "-${pids[i]}" 2>/dev/null || true  # workers it left behind
        note_end "$i" "$code"
      fi
    done
    [ -z "$deadline" ] || [ "$SECONDS" -lt "$deadline" ] || pass_on KILL
  done
}

port="" logs=""
while [[ "${1:-}" == -* ]]; do
  case "$1" in
    --port=*) port="${1#*=}" ;;
    --logs=*) logs="${1#*=}" ;;
    *) common_option local_processes.sh "$1" ;;
  esac
  shift
done
count="${1:-}"
[ -n "$count" ] || fail "how many processes? (bash launch/local_processes.sh --help)"
[[ "$count" =~ ^[1-9][0-9]*$ ]] || fail "the number of processes is a whole number from 1 on, not $count"
verb="${2:-}"
distributed_verb local_processes.sh "$verb"
arguments=("${@:3}")

workdir="$(value_of workdir "${@:3}")"
# Beside the workdir: an experiment takes only an empty one, or its own.
logs="${logs:-${workdir:+${workdir%/}.logs}}"
logs="${logs:-runs/logs}"
port="${port:-$(free_port)}"
prepare_python ""
if $dry_run; then
  for ((i = 0; i < count; i++)); do
    command_of "$i"
    echo "$(quoted "${command[@]}") >>$(quoted "$(log_of "$i")") 2>&1 &"
  done
  exit 0
fi

left="$count" failed=0 saved=0 deadline=""
trap 'pass_on TERM' TERM HUP
trap 'pass_on INT' INT
start_all
wait_for_all
exec 3>&-
wait "$tee_pid" 2>/dev/null || true
[ "$failed" = 0 ] || exit "$failed"
exit "$saved"
