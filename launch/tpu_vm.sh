#!/usr/bin/env bash
# Runs a verb on a Cloud TPU VM of one or several workers, through gcloud:
#
#   bash launch/tpu_vm.sh [--dry_run] [SETTINGS] create            makes the TPU VM
#   bash launch/tpu_vm.sh [--dry_run] [SETTINGS] copy              sends the tracked files, as last committed, to all workers
#   bash launch/tpu_vm.sh [--dry_run] [SETTINGS] install           makes .venv with JAX for TPU on all workers
#   bash launch/tpu_vm.sh [--dry_run] [SETTINGS] start VERB ...    runs train or experiment on all workers, in tmux; or answer, extract
#   bash launch/tpu_vm.sh [--dry_run] [SETTINGS] logs              follows what worker 0 prints; "logs all": the last lines of each
#   bash launch/tpu_vm.sh [--dry_run] [SETTINGS] collect WORKDIR   copies a workdir and worker 0's log to runs/ here
#   bash launch/tpu_vm.sh [--dry_run] [SETTINGS] stop              SIGTERM: the run saves itself; waits until it has
#   bash launch/tpu_vm.sh [--dry_run] [SETTINGS] ssh COMMAND       runs a shell command on all workers
#   bash launch/tpu_vm.sh [--dry_run] [SETTINGS] delete            deletes the TPU VM (gcloud asks first)
#
# SETTINGS, with their defaults: --name=factshock --zone=us-central2-b --type=v4-8 --version=(the runtime that fits the type)
# --project=(gcloud's own) --spot (preemptible, create only). --dry_run prints every gcloud command and runs none. Best kept together:
#
#   tpu() { bash launch/tpu_vm.sh --name=mine --zone=us-east5-b --type=v6e-16 --spot "$@"; }
#   tpu create && tpu copy && tpu install
#   tpu ssh 'sudo apt-get install -y nfs-common && sudo mkdir -p /mnt/share && sudo mount 10.0.0.2:/share /mnt/share'
#   tpu start train --config=t5_v1_1_xl --workdir=/mnt/share/runs/x
#
# Several workers (a v4-32 has four) need a --workdir that all of them see: Filestore (NFS) as above, or a bucket mounted with
# gcsfuse; a single one's own disk will do. A preempted TPU VM is gone with its disk: tpu delete, then the same commands again, and
# the run goes on where its workdir stands. After `stop`, or an error put right, `start` with the same arguments goes on.
# answer and extract share the parts of one --output: each worker by itself, with its own chips, and any number of TPU VMs that
# see one folder.
# The runtimes' Python is often older than 3.11: install then brings Python 3.12 by uv. For several workers gcloud wants the key
# in an agent: ssh-add ~/.ssh/google_compute_engine.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

ARCHIVE=build/factshock.tar.gz

# gcloud compute tpus tpu-vm $1 with the rest of the arguments and the place.
tpu_vm() {
  $dry_run || command -v gcloud >/dev/null || fail "gcloud was not found: https://cloud.google.com/sdk/docs/install"
  run gcloud compute tpus tpu-vm "$@" "--zone=$zone" ${project:+"--project=$project"}
}

# Runs the shell command $2 on worker $1 (a number, or all).
on_worker() { tpu_vm ssh "$name" "--worker=$1" "--command=$2"; }

# Runs launch/tpu_worker.sh with the rest of the arguments on worker $1.
worker_script() { on_worker "$1" "cd factshock && $(quoted bash launch/tpu_worker.sh "${@:2}")"; }

# https://cloud.google.com/tpu/docs/runtimes
runtime_of() {
  case "$1" in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

create() { tpu_vm create "$name" "--accelerator-type=$type" "--version=${version:-$(runtime_of "$type")}" ${spot:+--spot}; }

copy() {
  git diff --quiet HEAD 2>/dev/null || echo "note: changes that are not committed are not sent" >&2
  run mkdir -p build
  run git archive --format=tar.gz "--output=$ARCHIVE" HEAD
  tpu_vm scp "$ARCHIVE" "$name:" --worker=all
  on_worker all "mkdir -p factshock && tar -xzf $(basename "$ARCHIVE") -C factshock"
}

start() {
  local folder=workdir
  distributed_verb tpu_vm.sh "${1:-}"
  works_as_one "$1" || folder=output
  case "$(value_of "$folder" "$@")" in
    "" | /*) ;;
    *) echo "note: with several workers, --$folder has to be where all of them see it" >&2 ;;
  esac
  worker_script all start "$@"
}

logs() {
  case "${1:-0}" in
    all) worker_script all last_lines ;;
    *) worker_script "${1:-0}" follow ;;
  esac
}

collect() {
  [ -n "${1:-}" ] || fail "collect which WORKDIR? (bash launch/tpu_vm.sh --help)"
  local workdir="${1%/}"
  local local_copy
  local_copy="runs/$(basename "$workdir")"
  [[ "$workdir" == /* ]] || workdir="factshock/$workdir"
  run mkdir -p runs
  tpu_vm scp "$name:$workdir" runs/ --recurse --worker=0
  tpu_vm scp "$name:factshock/runs/tpu_vm.log" "$local_copy/tpu_vm.log" --worker=0
}

name=factshock zone=us-central2-b type=v4-8 version="" project="" spot=""
while [[ "${1:-}" == -* ]]; do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --type=*) type="${1#*=}" ;;
    --version=*) version="${1#*=}" ;;
    --project=*) project="${1#*=}" ;;
    --spot) spot=yes ;;
    *) common_option tpu_vm.sh "$1" ;;
  esac
  shift
done
what="${1:-}"
[ -n "$what" ] || fail "what is to be done? create, copy, install, start, logs, collect, stop, ssh, delete (bash launch/tpu_vm.sh --help)"
shift
case "$what" in
  create | copy | collect | start | logs) "$what" "$@" ;;
  install | stop) worker_script all "$what" ;;
  ssh) [ $# = 1 ] || fail "ssh runs which COMMAND, in quotes?"; on_worker all "$1" ;;
  delete) tpu_vm delete "$name" ;;
  *) fail "unknown: $what (create, copy, install, start, logs, collect, stop, ssh, delete)" ;;
esac
