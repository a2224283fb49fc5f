"""Metrics of a run: metrics.jsonl and TensorBoard event files, exact across restarts."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from factshock.runtime import files
from factshock.runtime.errors import UserError
from factshock.types import FilePath

if TYPE_CHECKING:
  import tensorboardX


class Metrics:
  """Appends entries to `<folder>/metrics.jsonl` and `<folder>/tensorboard/<label>/`.

  A line holds `label` (which training), `step`, `time` (seconds since the epoch) and the values by
  name. Each line is flushed as it is written, so that a killed run loses none. Use as a context
  manager.
  """

  def __init__(self, folder: FilePath) -> None:
    self.folder = str(folder)
    self.path = os.path.join(self.folder, "metrics.jsonl")
    self._writers: dict[str, tensorboardX.SummaryWriter] = {}
    self._file: TextIO | None = None

  def rewind(self, label: str, step: int) -> None:
    """Drops what was written for `label` beyond `step`, and a last line cut short by a kill."""
    self.close()
    if os.path.exists(self.path):
      kept = [line for line in _whole_lines(self.path) if not _is_beyond(line, label, step)]
      with files.atomic_write(self.path) as file:
        file.writelines(line + "\n" for line in kept)
    self._writers[label] = self._open_tensorboard(label, step)

  def write(
    self,
    label: str,
    step: int,
    values: Mapping[str, float],
  ) -> None:
    """Appends one entry: numbers by name, measured after `step` steps of `label`."""
    values = {name: float(value) for name, value in values.items()}
    entry = {"label": label, "step": int(step), "time": round(time.time(), 3), **values}
    try:
      if self._file is None:
        os.makedirs(self.folder, exist_ok=True)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  (closed by close)
      self._file.write(json.dumps(entry) + "\n")
      self._file.flush()
    except OSError as error:
      raise UserError(f"{self.path}: cannot be written: {error.strerror or error}") from error
    if label not in self._writers:
      self._writers[label] = self._open_tensorboard(label)
    for name, value in values.items():
      self._writers[label].add_scalar(name, value, step)

  def close(self) -> None:
    """Closes the files; a later `write` opens them again."""
    for writer in self._writers.values():
      writer.close()
    self._writers.clear()
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

  def _open_tensorboard(self, label: str, step: int | None = None) -> "tensorboardX.SummaryWriter":
    import tensorboardX  # noqa: PLC0415  (takes a while, and is needed by training alone)

    # Readers hide what an earlier, killed run wrote beyond the step.
    purge_step = None if step is None else step + 1
    folder = os.path.join(self.folder, "tensorboard", label)
    return tensorboardX.SummaryWriter(folder, purge_step=purge_step)


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
