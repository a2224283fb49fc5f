#!/usr/bin/env bash
# What launch/tpu_vm.sh runs on each worker of a TPU VM, in the copy of the clone there:
#
#   bash launch/tpu_worker.sh install             .venv with JAX for TPU; Python 3.12 by uv where none from 3.11 on is there
#   bash launch/tpu_worker.sh start VERB ...      runs the verb in a tmux session; output is added to runs/tpu_vm.log
#   bash launch/tpu_worker.sh run VERB ...        the same, without tmux
#   bash launch/tpu_worker.sh stop                sends SIGTERM, waits until the verb has saved itself and ended
#   bash launch/tpu_worker.sh follow | last_lines shows the log
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

SESSION=factshock
LOG=runs/tpu_vm.log
PID=runs/tpu_vm.pid

install() {
  local name
  command -v tmux >/dev/null || { sudo apt-get update -qq && sudo apt-get install -y -qq tmux; }
  for name in python3.12 python3.11 python3.13; do
    # Ubuntu's own Python comes without venv's ensurepip.
    if command -v "$name" >/dev/null && "$name" -c "import ensurepip" 2>/dev/null; then
      PYTHON="$name" exec bash launch/setup.sh tpu
    fi
  done
  # Newer Ubuntus' pip refuses to without this, older ones do not know it; --user leaves the system's own packages alone.
  export UV_PYTHON_PREFERENCE=only-managed PIP_BREAK_SYSTEM_PACKAGES=1
  python3 -m pip install --quiet --user uv
  python3 -m uv python install --quiet 3.12
  PYTHON="$(python3 -m uv python find --no-project 3.12)" exec bash launch/setup.sh tpu
}

start() {
  distributed_verb tpu_vm.sh "${1:-}"
  [ -n "${FACTSHOCK_PYTHON:-}" ] || [ -x .venv/bin/python ] || fail "nothing is installed here (bash launch/tpu_vm.sh install)"
  ! tmux has-session -t "=$SESSION" 2>/dev/null || fail "a run is going on here (bash launch/tpu_vm.sh stop, or logs)"
  tmux new-session -d -s "$SESSION" "$(quoted bash launch/tpu_worker.sh run "$@")"
  echo "$(hostname): started"
}

# What tells libtpu that a worker is a slice of its own: without it, each waits for all others of its slice.
ALONE=(TPU_PROCESS_BOUNDS=1,1,1 TPU_HOST_BOUNDS=1,1,1 CLOUD_TPU_TASK_ID=0 TPU_WORKER_ID=0 TPU_WORKER_HOSTNAMES=localhost)

# With platforms named, JAX raises where there is no TPU. The process id is for `stop`, the exit code for whoever reads the log.
run_verb() {
  local python="${FACTSHOCK_PYTHON:-.venv/bin/python}" verb="$1" code=0
  local arguments=("${@:2}") settings=("JAX_PLATFORMS=${JAX_PLATFORMS:-tpu,cpu}")
  if works_as_one "$verb"; then arguments+=(--distributed); else settings+=("${ALONE[@]}"); fi
  echo "$(date -u +%FT%TZ) $(hostname): $(quoted python -m "factshock.$verb" "${arguments[@]}")"
  env "${settings[@]}" "$python" -m "factshock.$verb" "${arguments[@]}" </dev/null &
  echo $! >"$PID"
  wait $! || code=$?
  rm -f "$PID"
  echo "$(date -u +%FT%TZ) $(hostname): exit code $code"
}

# The terminal stays open besides the log: tmux ends a session whose terminal nobody holds.
verb_to_log() {
  mkdir -p runs
  echo "output goes to $LOG"
  run_verb "$@" >>"$LOG" 2>&1
}

stop() {
  local pid
  pid="$(cat "$PID" 2>/dev/null || true)"
  if [ -z "$pid" ] || ! kill -TERM "$pid" 2>/dev/null; then
    echo "$(hostname): no run is going on"
    return
  fi
  while kill -0 "$pid" 2>/dev/null; do sleep 0.25; done
  sleep 0.5  # until the exit code is in the log
  tail -n 1 "$LOG"
}

last_lines() {
  hostname
  tail -n 20 "$LOG"
}

case "${1:-}" in
  install | start | stop | last_lines) "$@" ;;
  run) verb_to_log "${@:2}" ;;
  follow) exec tail -n 100 -F "$LOG" ;;
  --help | -h) usage tpu_worker.sh ;;
  *) fail "unknown: ${1:-nothing} (bash launch/tpu_worker.sh --help)" ;;
esac
