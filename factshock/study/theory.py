"""Running the one-layer study in a workdir: checks, theory.json, facts.npz and the page."""

import json
import os
import time
from typing import Any

import numpy as np

from factshock.report import theory_page
from factshock.runtime import files, provenance
from factshock.runtime.errors import UserError
from factshock.runtime.workdir import Workdir
from factshock.study import config as configs
from factshock.study import ownership
from factshock.theory import settings, study


def run(config: configs.Config, workdir: str | os.PathLike[str]) -> dict[str, Any]:
  """Runs the study of a config; writes theory.json, facts.npz and report.html with its figures.

  Returns:
    What theory.json holds.

  Raises:
    UserError: a config that cannot be used, a workdir of something else, or a loss that is not
      finite.
  """
  settings.check(config)
  workdir = Workdir.of(workdir)
  _check_workdir(config, workdir)
  began = time.monotonic()
  start = provenance.describe_run()
  results = study.compute(config)
  theory = results.theory
  theory["run"] = {
    **start,
    "seconds": round(time.monotonic() - began, 1),
    "config": configs.to_dict(config),
  }
  # theory.json first: by it a rerun knows the workdir.
  with files.atomic_write(workdir.theory) as file:
    json.dump(theory, file, allow_nan=False, indent=1)
  with files.atomic_write(workdir.theory_facts, binary=True) as file:
    arrays: dict[str, Any] = dict(results.facts)  # the stubs take any array for allow_pickle
    np.savez_compressed(file, **arrays)
  theory_page.write_report(theory, workdir.path)
  return theory


def _check_workdir(config: configs.Config, workdir: Workdir) -> None:
  """Checks that a folder holds nothing but an earlier run of the same config."""
  path = workdir.theory
  if not os.path.exists(path):
    if os.path.isdir(workdir) and os.listdir(workdir):
      raise UserError(
        f"{workdir}: not empty, and no workdir of this study; choose another --workdir"
      )
    return
  with files.open_text(path) as file:
    differing = ownership.differences(json.load(file)["run"]["config"], configs.to_dict(config))
  if differing:
    raise UserError(
      f"{workdir}: holds another study; choose another --workdir or remove it. What differs "
      "(there, here):\n  " + "\n  ".join(differing)
    )
