"""Folder of a diagnosis: page, tables and JSON, and what a terminal says of it."""

import json
import os
from collections.abc import Mapping
from typing import Any

from factshock.diagnosis import frames, table
from factshock.report import page, reading, summary
from factshock.runtime import files

DIAGNOSIS = "diagnosis.json"


def write(diagnosis: Mapping[str, Any], folder: str | os.PathLike[str]) -> list[str]:
  """Writes report.html with its figures, diagnosis.json, arms.csv, comparisons.csv, entities.csv.

  Each file is whole or absent.

  Args:
    diagnosis: as from `diagnosis.summary.diagnose`.
    folder: where to write; made where it is missing.

  Returns:
    The paths of page, JSON and tables.
  """
  path = os.path.join(folder, DIAGNOSIS)
  with files.atomic_write(path) as file:
    file.write(to_json(diagnosis))
  return [page.write_report(diagnosis, folder), path, *frames.write(diagnosis, folder)]


def to_json(result: Mapping[str, Any]) -> str:
  """Returns JSON with a line for each key: indenting many entities would take seconds."""
  members = (
    f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
    for name, value in result.items()
  )
  return "{" + ",\n".join(members) + "}\n"


def lines(diagnosis: Mapping[str, Any], width: int | None = table.WIDTH) -> list[str]:
  """Returns the sentences of the report, then the tables of arms and comparisons, for a terminal.

  Args:
    diagnosis: as from `diagnosis.summary.diagnose`, or an experiment's.
    width: columns of the terminal; None for all columns of the tables.
  """
  return [*sentences(diagnosis), "", *table.lines(diagnosis, width)]


def sentences(diagnosis: Mapping[str, Any]) -> list[str]:
  """Returns the sentences of the report in lines for a terminal."""
  told = summary.sentences(reading.tidy(diagnosis))
  return table.wrapped(f"{about}: {sentence}" for about, sentence in told)
