"""Saving of a training run: where and how often, and checkpoints written while it goes on."""

import concurrent.futures
import dataclasses
import functools
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import jax
import numpy as np

from factshock.checkpoints import store
from factshock.devices import host
from factshock.runtime import processes
from factshock.training.train_step import TrainState
from factshock.types import FilePath, Params


@dataclasses.dataclass(frozen=True)
class Checkpointing:
  """Where and how often a run saves itself.

  Attributes:
    folder: of the checkpoints, a step folder each.
    every: steps between two checkpoints; 0 saves at the end of the run alone.
    record: what the checkpoints say of their run (JSON).
    keep: how many of the newest are kept, None for all: one more than is needed, in case the newest
      is found damaged.
    keep_optimizer: whether the optimizer's state is kept when the run has finished; else its last
      checkpoint has weights alone, and so have those before it, of which `keep` None alone leaves
      any.
  """

  folder: FilePath
  every: int = 0
  record: dict[str, Any] | None = None
  keep: int | None = 2
  keep_optimizer: bool = True


@runtime_checkable
class ResumableBatches(Protocol):
  """Batches whose position (JSON) can be saved and set."""

  def get_state(self) -> Any: ...
  def set_state(self, state: Any) -> None: ...


class Saver:
  """Context manager that saves a run, and lets training go on while it writes a copy.

  At the end all is written. A save that failed raises at the next save, or at the end.
  """

  def __init__(self, checkpoint: Checkpointing | None, batches: ResumableBatches | Any) -> None:
    self._checkpoint = checkpoint
    self._batches = batches
    self._pending: concurrent.futures.Future[None] | None = None
    self._writing = concurrent.futures.ThreadPoolExecutor(1)
    self._copying = concurrent.futures.ThreadPoolExecutor()

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    error_type: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    try:
      if error is None:
        self._finish_pending()
    finally:
      self._copying.shutdown()
      self._writing.shutdown()

  def save(
    self,
    step: int,
    state: TrainState,
    wait: bool = False,
  ) -> None:
    """Saves the state after a step, unless it is saved already.

    With `wait`, where a copy would take too much memory, and among several processes it writes at
    once.
    """
    self._finish_pending()
    checkpoint = self._checkpoint
    if checkpoint is None or store.agreed_latest_step(checkpoint.folder) == step:
      return
    trees: Params = {"params": state["params"], "opt_state": state["opt_state"]}
    write = functools.partial(
      store.save,
      checkpoint.folder,
      step,
      loader_state=self._batches.get_state(),
      config=checkpoint.record,
      keep=checkpoint.keep,
    )
    if wait or processes.process_count() > 1 or not _fits_twice(trees):
      write(**trees)
    else:
      self._pending = self._writing.submit(write, **self._copy(trees))

  def finish(self, step: int, state: TrainState) -> None:
    """Saves the state after the last step: what the finished run keeps, at once and without a copy.

    Where the optimizer's state is not kept, it goes from earlier checkpoints too.
    """
    checkpoint = self._checkpoint
    if checkpoint is None or checkpoint.keep_optimizer:
      self.save(step, state, wait=True)
      return
    self._finish_pending()
    if store.agreed_latest_step(checkpoint.folder) != step:
      store.save(
        checkpoint.folder,
        step,
        params=state["params"],
        loader_state=self._batches.get_state(),
        config=checkpoint.record,
        keep=checkpoint.keep and 1,
      )
    store.drop_optimizer(checkpoint.folder)

  def _copy(self, trees: Params) -> Params:
    """Returns a copy on the host: the next step overwrites the arrays."""
    leaves, structure = jax.tree.flatten(trees)
    copies = list(self._copying.map(lambda leaf: np.array(leaf, copy=True), leaves))
    return structure.unflatten(copies)

  def _finish_pending(self) -> None:
    """Waits for the save in progress; raises what went wrong in it."""
    pending = self._pending
    self._pending = None
    if pending:
      pending.result()


def _fits_twice(trees: Params) -> bool:
  """Returns whether there is free memory for two copies of the arrays."""
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(trees))
  return 2 * size <= host.free_memory_bytes()
