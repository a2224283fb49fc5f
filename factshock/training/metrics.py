"""Metrics of a run: metrics.jsonl, exact across restarts, and the loggers beside it."""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TextIO

from factshock.runtime import files
from factshock.runtime.errors import UserError
from factshock.training import loggers
from factshock.types import FilePath


class Metrics:
  """Appends entries to `<folder>/metrics.jsonl`, and hands them to other loggers.

  A line holds `label` (which training), `step`, `time` (seconds since the epoch) and the values by
  name. Each line is flushed as it is written, so that a killed run loses none. Use as a context
  manager.
  """

  def __init__(
    self,
    folder: FilePath,
    names: Sequence[str] = tuple(loggers.names_of(loggers.DEFAULT)),
    info: loggers.RunInfo | None = None,
  ) -> None:
    """Opens nothing yet.

    Args:
      folder: of the metrics.
      names: the loggers to write to.
      info: which run the metrics are of.
    """
    self.folder = str(folder)
    self.path = os.path.join(self.folder, "metrics.jsonl")
    self._has_lines = loggers.JSONL in names
    self._others = [name for name in names if name != loggers.JSONL]
    self._info = info or loggers.RunInfo()
    self._loggers: dict[str, list[loggers.Logger]] = {}
    self._file: TextIO | None = None

  def rewind(self, label: str, step: int) -> None:
    """Drops what was written for `label` beyond `step`, and a last line cut short by a kill."""
    self.close()
    if os.path.exists(self.path):
      kept = [line for line in _whole_lines(self.path) if not _is_beyond(line, label, step)]
      with files.atomic_write(self.path) as file:
        file.writelines(line + "\n" for line in kept)
    self._open(label, step)

  def write(
    self,
    label: str,
    step: int,
    values: Mapping[str, float],
  ) -> None:
    """Appends one entry: numbers by name, measured after `step` steps of `label`."""
    values = {name: float(value) for name, value in values.items()}
    if self._has_lines:
      self._write_line({"label": label, "step": int(step), "time": round(time.time(), 3), **values})
    if label not in self._loggers:
      self._open(label)
    for logger in self._loggers[label]:
      logger.write(int(step), values)

  def close(self) -> None:
    """Closes the files; a later `write` opens them again."""
    for of_label in self._loggers.values():
      for logger in of_label:
        logger.close()
    self._loggers.clear()
    if self._file:
      self._file.close()
      self._file = None

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    error_type: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    self.close()

  def _open(self, label: str, step: int | None = None) -> None:
    self._loggers[label] = []
    for name in self._others:
      logger = loggers.OPEN[name](self.folder, label, self._info, step)
      self._loggers[label].append(logger)

  def _write_line(self, entry: Mapping[str, Any]) -> None:
    try:
      if self._file is None:
        os.makedirs(self.folder, exist_ok=True)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  (closed by close)
      self._file.write(json.dumps(entry) + "\n")
      self._file.flush()
    except OSError as error:
      raise UserError(f"{self.path}: cannot be written: {error.strerror or error}") from error


def read_metrics(path: FilePath) -> list[dict[str, Any]]:
  """Reads a metrics.jsonl; a last line that a kill cut short is left out."""
  return [json.loads(line) for line in _whole_lines(path)]


def _whole_lines(path: FilePath) -> Iterator[str]:
  numbered = list(files.lines(path))
  for line_number, line in numbered:
    try:
      json.loads(line)
    except ValueError as error:
      if line_number == len(numbered):
        break
      raise UserError(
        f"{path}:{line_number}: expected a JSON object, got {line[:60]!r}; remove the line or the "
        "file"
      ) from error
    yield line


def _is_beyond(
  line: str,
  label: str,
  step: int,
) -> bool:
  entry = json.loads(line)
  return entry["label"] == label and entry["step"] > step
