"""Study of the one-layer theory for the Python API: predictions as a table, and the page."""

import functools
from collections.abc import Mapping
from typing import Any

from factshock.interface import configs
from factshock.interface.results import Page
from factshock.runtime import files, tables
from factshock.runtime.errors import UserError
from factshock.runtime.tables import Frame
from factshock.runtime.workdir import Workdir
from factshock.study import theory as study
from factshock.theory.study import summary_lines
from factshock.types import Config


class Theory:
  """Study of the theory: its predictions, and whether they hold.

  Attributes:
    data: what theory.json holds.
    folder: the workdir, with facts.npz and report.html.
  """

  def __init__(self, data: Mapping[str, Any], folder: str) -> None:
    """Takes what theory.json of a workdir holds."""
    self.data = data
    self.folder = folder

  @functools.cached_property
  def claims(self) -> Frame:
    """Row for each estimate that a prediction is about: what holds, and mean, low and high."""
    rows: list[dict[str, Any]] = []
    for claim in self.data["claims"]:
      of_claim = {"statement": claim["statement"], "verdict": claim["verdict"]}
      rows += [{**of_claim, **estimate} for estimate in claim["estimates"]]
    return tables.frame(rows)

  @property
  def sentences(self) -> list[str]:
    """Predictions with their verdicts, and the estimates below each."""
    return summary_lines(dict(self.data))

  def report(self) -> Page:
    """Returns the page about the study."""
    return Page(files.read_text(Workdir(self.folder).report))

  def __repr__(self) -> str:
    return "\n".join(self.sentences)


def run(config: Config, folder: str) -> Theory:
  """Runs the study of a config in a workdir.

  Raises:
    UserError: a config of something else, or a workdir of something else.
  """
  if not configs.is_of_theory(config):
    raise UserError(
      "compute_theory: expected a config of the theory, got one of arms; give it to experiment"
    )
  return Theory(study.run(config, folder), folder)
