r"""Runs an experiment: pretrains, finetunes, repairs and diagnoses every arm of a config, and writes a report.

  python -m factshock.experiment --config=configs/demo.py --workdir=runs/demo

Any value of the config can be changed: --config.finetune.steps=400 --config.seeds=3 (three seeds; a list,
--config.seeds=0,3, runs these). The same command goes on after an interruption and skips what is done; SIGTERM and Ctrl-C save the
training step first and end with exit code 75.
"""

import os

from absl import flags
from ml_collections import config_flags

from factshock.runtime import console, processes
from factshock.runtime.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, such as configs/demo.py.")
_WORKDIR = flags.DEFINE_string(
  "workdir",
  None,
  "Folder for everything the experiment writes; by default runs/NAME of the config file NAME.py.",
)
processes.define_flags()


def main(_):
  """Runs the experiment, prints the table of arms and where the report is."""
  processes.join()
  if _CONFIG.value is None:
    raise UserError("needs --config=FILE; --help explains")
  if _CONFIG.value.get("study") == "one_layer":
    from factshock.theory import study as pipeline
    from factshock.theory import study as words
  else:
    from factshock.study import diagnosis as words
    from factshock.study import pipeline
  workdir = _WORKDIR.value or _default_workdir()
  found = pipeline.run(_CONFIG.value, workdir)
  if found:  # the first of several processes alone has it
    print("\n".join(words.summary_lines(found)))
    print(f"report: {os.path.join(workdir, 'report.html')}")


def _default_workdir():
  """runs/NAME of the config file NAME.py."""
  path = config_flags.get_config_filename(flags.FLAGS["config"])
  return os.path.join("runs", os.path.splitext(os.path.basename(path))[0])


if __name__ == "__main__":
  console.run(main)
