r"""Finetunes one model on all the facts of a file, alone or mixed with its pretraining task.

  factshock train --model=google/flan-t5-base --facts=facts.jsonl --relations=relations.jsonl \
      --workdir=runs/mine
  factshock train --config=t5_v1_1_small --facts=popqa:popqa.csv --workdir=runs/popqa \
      --config.finetune.steps=2000
  factshock train --config=llama2_7b --dry_run

--model alone means --config=pretrained:MODEL. --ratio=4 --corpus=text.txt puts four examples of the
pretraining task beside each question of a batch: the remedy for frequency shock. The checkpoint is
WORKDIR/checkpoints/finetuned/SEED; ask it with `factshock answer --model=...`, write it for other
programs with `factshock convert`.

--dry_run only prints what the run would take: parameters, sharding, memory a device, FLOPs a step.
--check_reproducibility trains 20 steps twice, compares every bit and keeps nothing.

An interrupted run goes on from its last checkpoint by the same command. Exit code: 0; 2 for a
mistake in flags or files; 75 after SIGTERM or Ctrl-C, with the step saved.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from factshock.runtime import console, processes, study_flags
from factshock.runtime.errors import UserError

if TYPE_CHECKING:
  from factshock.types import Config


def define_flags() -> None:
  """Defines the flags; called only where the verb runs as a program."""
  from factshock.runtime import config_files

  config_files.define_flag("Config: a name, such as t5_v1_1_small, or a file, such as mine.py.")
  study_flags.define()
  flags.DEFINE_string("workdir", None, "Folder for checkpoints, metrics, tokenizer and facts.")
  flags.DEFINE_integer(
    "seed",
    0,
    "Seed of the order of the data, and of the weights where the config starts from random ones.",
    lower_bound=0,
  )
  flags.DEFINE_float(
    "ratio", 0.0, "Examples of the pretraining task to each question.", lower_bound=0.0
  )
  flags.DEFINE_bool(
    "check_reproducibility",
    False,
    "Train the first 20 steps twice, compare every bit, and keep nothing.",
  )
  flags.DEFINE_integer(
    "profile_steps",
    0,
    "Write a trace of so many steps, after the first ten, to WORKDIR/profile.",
    lower_bound=0,
  )
  flags.DEFINE_bool("dry_run", False, "Print what training would take, and train nothing.")
  processes.define_flags()


def main(argv: Sequence[str]) -> None:
  """Trains, prints what training would take, or checks that it is reproducible."""
  del argv
  from factshock.study import finetuning

  processes.join()
  values = flags.FLAGS
  if not (values.workdir or values.dry_run or values.check_reproducibility):
    raise UserError("needs --workdir=DIR (or --dry_run, --check_reproducibility); --help explains")
  config = _config()
  if values.dry_run:
    print("\n".join(finetuning.dry_run(config, values.ratio)))
  elif values.check_reproducibility:
    _check_reproducibility(config)
  else:
    folder = finetuning.run(
      config,
      values.workdir,
      seed=values.seed,
      ratio=values.ratio,
      profile_steps=values.profile_steps,
    )
    print(f"checkpoint: {folder}")


def _config() -> "Config":
  """Returns the config that the flags name, with the model, facts and relations of theirs."""
  from factshock.study import inputs

  values = flags.FLAGS
  config = values.config
  if config is None and values.model is None:
    raise UserError("needs --model=MODEL, or --config=NAME or --config=FILE.py; --help explains")
  if config is None:
    from factshock.configs import pretrained

    config = pretrained.get_config(values.model)
  inputs.put(config, **study_flags.given())
  return config


def _check_reproducibility(config: "Config") -> None:
  """Trains twice and compares the weights.

  Raises:
    UserError: the weights differ, or there are several processes.
  """
  from factshock.study import finetuning

  values = flags.FLAGS
  if processes.process_count() > 1:
    raise UserError(
      "--check_reproducibility is for one process; it trains in a folder that others do not see"
    )
  differing = finetuning.reproducible(config, seed=values.seed, ratio=values.ratio)
  if differing:
    raise UserError(
      f"20 steps gave other bits the second time in {len(differing)} weights, such as "
      f"{differing[0]}; on a GPU XLA_FLAGS=--xla_gpu_deterministic_ops=true makes operations "
      "deterministic"
    )
  print("reproducible: 20 steps gave the same bits twice")


if __name__ == "__main__":
  define_flags()
  console.run(main)
