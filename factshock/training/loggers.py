"""Programs that show the metrics of a run: TensorBoard, and Weights & Biases."""

import dataclasses
import importlib.util
import os
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

from factshock.runtime import console, files
from factshock.runtime.errors import UserError
from factshock.runtime.settings import Check
from factshock.types import FilePath

JSONL = "jsonl"
TENSORBOARD = "tensorboard"
WANDB = "wandb"
NAMES = (JSONL, TENSORBOARD, WANDB)
DEFAULT = f"{JSONL},{TENSORBOARD}"  # of config.loggers
_PROJECT = "factshock"  # unless WANDB_PROJECT says another


def names_of(value: str) -> list[str]:
  """Returns the names of loggers in a text, where commas stand between them."""
  return [name.strip() for name in value.split(",") if name.strip()]


def _are_names(value: str) -> bool:
  names = names_of(value)
  return len(set(names)) == len(names) and set(names) <= set(NAMES)


CHECK = Check(
  (str,),
  _are_names,
  f"none or some of {', '.join(NAMES)}, with commas between them",
  required=False,
)


def missing_package(value: str) -> str | None:
  """Returns what is wrong where a logger's package is not installed; None where all are."""
  if WANDB in names_of(value) and importlib.util.find_spec("wandb") is None:
    return "'wandb' needs the package wandb: pip install 'factshock[wandb]'"
  return None


@dataclasses.dataclass(frozen=True)
class RunInfo:
  """Says of which run the metrics are.

  Attributes:
    study: name of the experiment; its runs stand together.
    seed: of the run.
    config: the experiment's, as plain nested dicts.
  """

  study: str = ""
  seed: int = 0
  config: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Logger(Protocol):
  """Describes what takes the metrics of one training; made for the steps after a first one."""

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Takes numbers by name, measured after so many steps."""
    ...

  def close(self) -> None:
    """Hands over what was taken."""
    ...


class TensorBoard:
  """Writes TensorBoard's event files, into `<folder>/tensorboard/<label>/`."""

  def __init__(
    self,
    folder: FilePath,
    label: str,
    info: RunInfo,
    step: int | None,
  ) -> None:
    """Opens the files.

    Args:
      folder: of the metrics.
      label: of the training.
      info: not used.
      step: what an earlier, killed run wrote beyond it is hidden by readers; None hides nothing.
    """
    import tensorboardX  # noqa: PLC0415  (takes a while, and is needed by training alone)

    del info
    purge_step = None if step is None else step + 1
    path = os.path.join(folder, TENSORBOARD, label)
    self._writer = tensorboardX.SummaryWriter(path, purge_step=purge_step)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Appends scalars."""
    for name, value in values.items():
      self._writer.add_scalar(name, value, step)

  def close(self) -> None:
    """Closes the files."""
    self._writer.close()


class Wandb:
  """Sends the scalars of a training to Weights & Biases as a run of its own.

  Its environment variables count (WANDB_MODE=offline, WANDB_PROJECT, WANDB_ENTITY, WANDB_API_KEY);
  a key is taken from there or from `wandb login`. What it keeps on disk stands in
  `<folder>/wandb/`, with the id of the run, so that a resumed training goes on in the same run.
  Weights & Biases takes no step twice: it keeps the first values, and those of a resumed training
  are the same to the bit.
  """

  def __init__(
    self,
    folder: FilePath,
    label: str,
    info: RunInfo,
    step: int | None,
  ) -> None:
    """Opens the run.

    Args:
      folder: of the metrics.
      label: of the training.
      info: of which run.
      step: 0 begins a new run; another goes on in the one that there is.

    Raises:
      UserError: no login, or no answer from its server.
    """
    run_id = _run_id(os.path.join(folder, WANDB, f"{label}.id"), is_new=step == 0)
    self._run = _begin_run(folder, label, info, run_id)
    if self._run.offline:
      run_folder = os.path.dirname(self._run.dir)
      console.say_once(f"wandb is offline; to upload: wandb sync {run_folder}")
    elif self._run.url:
      console.say_once(f"wandb: {label} is shown at {self._run.url}")

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Sends scalars."""
    self._run.log(dict(values), step=step)

  def close(self) -> None:
    """Waits until all is sent, or written when offline."""
    self._run.finish()


def _begin_run(
  folder: FilePath,
  label: str,
  info: RunInfo,
  run_id: str,
) -> Any:
  """Returns a run of wandb that is begun, or goes on.

  Raises:
    UserError: it cannot; says what to do.
  """
  # An extra.
  import wandb  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

  try:
    return wandb.init(
      project=os.environ.get("WANDB_PROJECT") or _PROJECT,
      group=info.study or None,
      job_type=label,
      name=f"{label}, seed {info.seed}",
      id=run_id,
      resume="allow",
      dir=folder,
      config=dict(info.config),
      reinit="create_new",
      settings=wandb.Settings(silent=True, console="off"),
    )
  except (wandb.Error, OSError) as error:
    reason = " ".join(str(error).split())
    raise UserError(
      f"config.loggers: wandb cannot begin a run: {reason}; run `wandb login` first, set "
      "WANDB_API_KEY, or set WANDB_MODE=offline and upload later by `wandb sync`"
    ) from error


def _run_id(path: str, is_new: bool) -> str:
  """Returns the id that a file holds, or a new one, which the file then holds."""
  if not is_new and os.path.exists(path):
    with open(path, encoding="utf-8") as file:
      run_id = file.read().strip()
    if run_id:
      return run_id
  run_id = uuid.uuid4().hex[:12]
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with files.atomic_write(path) as file:
    file.write(run_id + "\n")
  return run_id


OPEN = {TENSORBOARD: TensorBoard, WANDB: Wandb}
