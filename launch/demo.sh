#!/usr/bin/env bash
# The demo: a synthetic world in which a small T5 shows frequency shock and is repaired; about 10 minutes on 2 cores.
#
#   bash launch/demo.sh
#   bash launch/demo.sh --config.seeds=3 --workdir=runs/three
#
# Makes .venv with factshock first (about 1 GB, some minutes, once), then runs `factshock experiment --config=demo`, to which
# the arguments are passed on (.venv/bin/factshock experiment --help, .venv/bin/factshock configs demo). The same command goes on
# after an interruption. The report is runs/demo/report.html.
source "$(dirname "${BASH_SOURCE[0]}")/help.sh" "$@"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" ""
exec .venv/bin/factshock experiment --config=demo --workdir=runs/demo "$@"
