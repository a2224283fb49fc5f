r"""Finetunes one model on all the facts of a file, alone or mixed with its pretraining task.

  python -m factshock.train --config=configs/t5_v1_1_small.py --workdir=runs/mine \\
      --config.facts=facts.jsonl --config.relations=relations.jsonl
  python -m factshock.train --config=configs/llama2_7b.py --dry_run

--ratio=4 --config.corpus=text.txt mixes four examples of the pretraining task into each question's batch: the
remedy for frequency shock. The checkpoint stands in WORKDIR/checkpoints/finetuned/SEED; ask it with
`python -m factshock.answer --checkpoint=...`, write it for other programs with `python -m factshock.convert`.
An interrupted run goes on where its last checkpoint stands. --dry_run only says what the run would take:
parameters, sharding, memory a device, FLOPs a step. SIGTERM and Ctrl-C save the step and end with exit code 75: the same
command goes on. --check_reproducibility trains 20 steps twice, compares every bit and keeps nothing.
"""

from absl import flags
from ml_collections import config_flags

from factshock.runtime import console, processes
from factshock.runtime.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Config file, such as configs/t5_v1_1_small.py."
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder for checkpoints, metrics, tokenizer and facts."
)
_SEED = flags.DEFINE_integer(
  "seed", 0, "Order of the data, and random weights where there is no start.", lower_bound=0
)
_RATIO = flags.DEFINE_float(
  "ratio", 0.0, "Examples of the pretraining task to each question.", lower_bound=0.0
)
_REPRODUCIBLE = flags.DEFINE_bool(
  "check_reproducibility",
  False,
  "Train the first 20 steps twice, compare every bit, and keep nothing.",
)
_PROFILE = flags.DEFINE_integer(
  "profile_steps",
  0,
  "Write a trace of so many steps, after the first ten, to WORKDIR/profile.",
  lower_bound=0,
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Say what training would take, and train nothing.")
processes.define_flags()


def main(_):
  """Trains, or says what training would take."""
  from factshock.study import finetuning

  processes.join()
  if _CONFIG.value is None or not (_WORKDIR.value or _DRY_RUN.value or _REPRODUCIBLE.value):
    raise UserError(
      "needs --config=FILE and --workdir=DIR (or --dry_run, --check_reproducibility); --help explains"
    )
  if _DRY_RUN.value:
    print("\n".join(finetuning.dry_run(_CONFIG.value, _RATIO.value)))
    return
  if _REPRODUCIBLE.value:
    if processes.process_count() > 1:
      raise UserError(
        "--check_reproducibility is for one process; it trains in a folder that others do not see"
      )
    differing = finetuning.reproducible(_CONFIG.value, seed=_SEED.value, ratio=_RATIO.value)
    if differing:
      raise UserError(
        f"20 steps gave other bits the second time in {len(differing)} weights, such as {differing[0]}; on a GPU "
        "XLA_FLAGS=--xla_gpu_deterministic_ops=true makes operations deterministic"
      )
    print("reproducible: 20 steps gave the same bits twice")
    return
  folder = finetuning.run(
    _CONFIG.value,
    _WORKDIR.value,
    seed=_SEED.value,
    ratio=_RATIO.value,
    profile_steps=_PROFILE.value,
  )
  print(f"checkpoint: {folder}")


if __name__ == "__main__":
  console.run(main)
