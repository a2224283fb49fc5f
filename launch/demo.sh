#!/usr/bin/env bash
# The demo: a synthetic world in which a small T5 shows frequency shock and is repaired; about 10 minutes on 2 cores.
# Arguments are passed on: bash launch/demo.sh --config.seeds=3 --workdir=runs/three
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" ""
exec .venv/bin/python -m factshock.experiment --config=configs/demo.py --workdir=runs/demo "$@"
