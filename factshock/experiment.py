r"""Runs an experiment: pretrains, finetunes, repairs and diagnoses every arm, and writes a report.

  factshock experiment --config=demo --workdir=runs/demo
  factshock experiment --config=demo --arms=mixture,weight_mixing --config.seeds=3 --dry_run
  factshock experiment --model=google/flan-t5-base --facts=facts.jsonl \
      --relations=relations.jsonl --corpus=text.txt --workdir=runs/own

An arm is one way to train or repair a model; the config lists the arms to compare, and --arms=A,B
runs these and those that they need. Any value of the config can be changed on the command line:
--config.finetune.steps=400 --config.seeds=3 (three seeds; a list, --config.seeds=0,3, runs these),
and so can what an arm does otherwise than the rest: --config.arms.mixture.learning_rate=1e-4.
--dry_run prints stages, steps, tokens, memory and time, and runs nothing.

The same command goes on after an interruption and skips what is done. Exit code: 0; 2 for a mistake
in flags or files; 75 after SIGTERM or Ctrl-C, with the training step saved.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from factshock.runtime import console, messages, processes, study_flags
from factshock.runtime.errors import UserError
from factshock.runtime.workdir import Workdir

if TYPE_CHECKING:
  from factshock.types import Config


def define_flags() -> None:
  """Defines the flags; called only where the verb runs as a program."""
  from factshock.runtime import config_files

  config_files.define_flag(
    "Config: a name, such as demo, or a file, such as mine.py.", add_key=_add_key
  )
  study_flags.define()
  flags.DEFINE_list(
    "arms", None, "Arms to run, with those that they need; default: all of the config."
  )
  flags.DEFINE_bool("dry_run", False, "Print what the experiment would take, and run nothing.")
  flags.DEFINE_string(
    "workdir",
    None,
    "Folder for everything the experiment writes; by default runs/NAME of the config NAME.",
  )
  processes.define_flags()


def main(argv: Sequence[str]) -> None:
  """Runs the experiment, and prints the table of arms and the path of the report."""
  del argv
  processes.join()
  config = _config()
  if config.get("study") == "one_layer":
    from factshock.study.theory import run
    from factshock.theory.study import summary_lines
  else:
    from factshock.study.diagnosis import summary_lines
    from factshock.study.pipeline import run

    _choose_arms(config)
  if flags.FLAGS.dry_run:
    _print_plan(config)
    return
  workdir = flags.FLAGS.workdir or _default_workdir()
  diagnosis = run(config, workdir)
  if diagnosis:  # the first of several processes alone has it
    lines: list[str] = summary_lines(diagnosis)
    print("\n".join(lines))
    print(f"report: {Workdir(workdir).report}")


def _add_key(config: "Config", path: Sequence[str]) -> None:
  """Adds a key that a flag sets and the config lacks."""
  from factshock.study import new_keys

  if config.get("study") != "one_layer":
    new_keys.add(config, path)


def _config() -> "Config":
  """Returns the config that the flags name, with the inputs that have flags of their own."""
  from factshock.study import inputs

  values = flags.FLAGS
  config = values.config
  if config is None and values.model is None:
    raise UserError(
      "needs --config=NAME or --config=FILE.py, such as --config=demo, or --model=MODEL; --help "
      "explains"
    )
  if config is None:
    from factshock.configs import pretrained

    config = pretrained.get_config(values.model)
  given = study_flags.given()
  if config.get("study") == "one_layer":
    unfit = [*given, *(["arms"] if values.arms else []), *(["dry_run"] if values.dry_run else [])]
    if unfit:
      raise UserError(f"--{unfit[0]}: not with this config, whose study reads none and has no arms")
    return config
  inputs.put(config, **given)
  return config


def _choose_arms(config: "Config") -> None:
  """Takes the arms out that --arms does not name and none of these needs."""
  from factshock.study import chosen_arms

  names = flags.FLAGS.arms
  if names is not None:
    needed = chosen_arms.keep(config, names)
    more = f", and {', '.join(needed)}, which they need" if needed else ""
    messages.say(f"arms: {', '.join(dict.fromkeys(names))}{more}; the report is of these alone")


def _print_plan(config: "Config") -> None:
  """Prints what the experiment would take."""
  from factshock.study import plan

  print("\n".join(plan.lines(config)))


def _default_workdir() -> str:
  """Returns runs/NAME of the config NAME."""
  from ml_collections import config_flags

  from factshock.runtime import config_files

  values = flags.FLAGS
  if not values["config"].present:
    return os.path.join("runs", config_files.stem(values.model))
  value = config_flags.get_config_filename(values["config"])
  return os.path.join("runs", config_files.stem(value))


if __name__ == "__main__":
  define_flags()
  console.run(main)
