r"""Runs an experiment: pretrains, finetunes, repairs and diagnoses every arm of a config, and writes a report.

  python -m factshock.experiment --config=configs/demo.py --workdir=runs/demo

Any value of the config can be changed: --config.finetune.steps=400 --config.seeds=3 (three seeds; a list,
--config.seeds=0,3, runs these). The same command goes on after an interruption and skips what is done; SIGTERM and Ctrl-C save the
training step first and end with exit code 75.
"""

import os

from absl import flags
from ml_collections import config_flags

from factshock import console, processes

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, such as configs/demo.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything the experiment writes, such as runs/demo.")
processes.define_flags()


def main(_):
  """Runs the experiment, prints the table of arms and where the report is."""
  from factshock.study import diagnosing, pipeline

  processes.join()
  if _CONFIG.value is None or not _WORKDIR.value:
    raise console.UserError("needs --config=FILE and --workdir=DIR; --help explains")
  found = pipeline.run(_CONFIG.value, _WORKDIR.value)
  if found:  # the first of several processes alone has it
    print("\n".join(diagnosing.summary_lines(found)))
    print(f"report: {os.path.join(_WORKDIR.value, 'report.html')}")


if __name__ == "__main__":
  console.run(main)
