#!/usr/bin/env bash
# Runs a verb on the NVIDIA GPUs of this machine; one process drives all of them:
#
#   bash launch/gpu.sh [--dry_run] VERB ARGUMENTS
#   bash launch/gpu.sh train --config=t5_v1_1_large --workdir=runs/x
#   bash launch/gpu.sh experiment --config=trex_t5 --workdir=runs/trex --config.mesh.fsdp=4
#
# Makes .venv with JAX for CUDA first ($FACTSHOCK_PYTHON names an interpreter that has factshock and such a JAX already), and
# ends with an error, rather than compute on the CPU, where there is no driver or JAX finds no GPU.
# --dry_run before the verb prints the commands and runs none; after it, it is the verb's own flag (what would training take?).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

check_driver() {
  command -v nvidia-smi >/dev/null || fail "no NVIDIA driver: nvidia-smi was not found"
  nvidia-smi -L | grep '^GPU' || fail "the NVIDIA driver finds no GPU (nvidia-smi says more)"
}

# JAX alone would warn and go on with the CPU where its CUDA libraries and the driver do not fit.
check_jax() {
  local found
  found="$("$@" 2>&1)" || fail "JAX finds no GPU: $(tail -n 1 <<<"$found")"
  tail -n 1 <<<"$found"
}

while [[ "${1:-}" == -* ]]; do common_option gpu.sh "$1"; shift; done
verb="${1:-}"
[ -n "$verb" ] || fail "which verb? train, experiment, answer, ... (bash launch/gpu.sh --help)"
grep -qs 'console.run(main)' "factshock/$verb.py" || fail "factshock has no verb $verb"
shift

if $dry_run; then run nvidia-smi -L; else check_driver; fi
prepare_python "$(gpu_extra)"
# With platforms named, JAX raises where the first cannot be had.
platforms="JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu}"
look=(env "$platforms" "$python" -c 'import jax; print("JAX finds", *jax.devices("cuda"))')
if $dry_run; then run "${look[@]}"; else check_jax "${look[@]}"; fi
run_last env "$platforms" "$python" -m "factshock.$verb" "$@"
