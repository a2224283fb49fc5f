"""Where the numbers of a run go: metrics.jsonl and TensorBoard event files, exact across restarts."""

import json
import os
import time

from factshock.runtime import files
from factshock.runtime.errors import UserError


class Metrics:
  """Appends entries to `<folder>/metrics.jsonl` and `<folder>/tensorboard/<label>/`.

  A line holds `label` (which training), `step`, `time` (seconds since the epoch) and the values by
  name. Each line is flushed as it is written, so that a killed run loses none. Use as a context manager.
  """

  def __init__(self, folder):
    self.folder = str(folder)
    self.path = os.path.join(self.folder, "metrics.jsonl")
    self._writers = {}
    self._file = None

  def rewind(self, label, step):
    """Drops what was written for `label` beyond `step`, and a last line cut short by a kill."""
    self.close()
    if os.path.exists(self.path):
      kept = [line for line in _whole_lines(self.path) if not _beyond(line, label, step)]
      with files.atomic_write(self.path) as file:
        file.writelines(line + "\n" for line in kept)
    self._writers[label] = self._open_tensorboard(label, step)

  def write(self, label, step, values):
    """Appends one entry: `values` maps names to numbers, measured after `step` steps of `label`."""
    values = {name: float(value) for name, value in values.items()}
    entry = {"label": label, "step": int(step), "time": round(time.time(), 3), **values}
    try:
      if self._file is None:
        os.makedirs(self.folder, exist_ok=True)
        self._file = open(self.path, "a", encoding="utf-8")
      self._file.write(json.dumps(entry) + "\n")
      self._file.flush()
    except OSError as error:
      raise UserError(f"{self.path}: cannot be written: {error.strerror or error}") from error
    writer = self._writers.get(label) or self._writers.setdefault(
      label, self._open_tensorboard(label)
    )
    for name, value in values.items():
      writer.add_scalar(name, value, step)

  def close(self):
    """Closes the files; a later `write` opens them again."""
    for writer in self._writers.values():
      writer.close()
    self._writers.clear()
    if self._file:
      self._file.close()
      self._file = None

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()

  def _open_tensorboard(self, label, step=None):
    import tensorboardX

    purge = (
      None if step is None else step + 1
    )  # readers hide what an earlier, killed run wrote beyond
    return tensorboardX.SummaryWriter(
      os.path.join(self.folder, "tensorboard", label), purge_step=purge
    )


def read_metrics(path):
  """Reads a metrics.jsonl into a list of dicts; a last line that a kill cut short is left out."""
  return [json.loads(line) for line in _whole_lines(path)]


def _whole_lines(path):
  numbered = list(files.lines(path))
  for number, line in numbered:
    try:
      json.loads(line)
    except ValueError as error:
      if number == len(numbered):
        break
      raise UserError(
        f"{path}:{number}: expected a JSON object, got {line[:60]!r}; remove the line or the file"
      ) from error
    yield line


def _beyond(line, label, step):
  entry = json.loads(line)
  return entry["label"] == label and entry["step"] > step
