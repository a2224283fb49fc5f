r"""Runs an experiment: pretrains, finetunes, repairs and diagnoses every arm, and writes a report.

  factshock experiment --config=demo --workdir=runs/demo

An arm is one way to train or repair a model; the config file lists the arms to compare. Any value
of the config can be changed on the command line: --config.finetune.steps=400 --config.seeds=3
(three seeds; a list, --config.seeds=0,3, runs these). The same command goes on after an
interruption and skips what is done; SIGTERM and Ctrl-C save the training step first and end with
exit code 75.
"""

import os
from collections.abc import Sequence

from absl import flags

from factshock.runtime import console, processes
from factshock.runtime.errors import UserError
from factshock.runtime.workdir import Workdir


def define_flags() -> None:
  """Defines the flags; called only where the verb runs as a program."""
  from factshock.runtime import config_files

  config_files.define_flag("Config: a name, such as demo, or a file, such as mine.py.")
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
  config = flags.FLAGS.config
  if config is None:
    raise UserError(
      "needs --config=NAME or --config=FILE.py, such as --config=demo; --help explains"
    )
  if config.get("study") == "one_layer":
    from factshock.study.theory import run
    from factshock.theory.study import summary_lines
  else:
    from factshock.study.diagnosis import summary_lines
    from factshock.study.pipeline import run
  workdir = flags.FLAGS.workdir or _default_workdir()
  diagnosis = run(config, workdir)
  if diagnosis:  # the first of several processes alone has it
    lines: list[str] = summary_lines(diagnosis)
    print("\n".join(lines))
    print(f"report: {Workdir(workdir).report}")


def _default_workdir() -> str:
  """Returns runs/NAME of the config NAME."""
  from ml_collections import config_flags

  from factshock.runtime import config_files

  value = config_flags.get_config_filename(flags.FLAGS["config"])
  return os.path.join("runs", config_files.stem(value))


if __name__ == "__main__":
  define_flags()
  console.run(main)
