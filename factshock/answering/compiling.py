"""Compiling of programs before they are called, several at a time, while others run."""

import collections
import concurrent.futures
import os
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

import jax

from factshock.types import Params

LOOKED_AHEAD = 8  # items
MOST_AT_A_TIME = 4

T = TypeVar("T")


class Ahead:
  """Compiles programs on threads, in the order in which they are named, until it is left.

  A call finds in JAX's caches what `lower().compile()` of the same function left there, for
  arguments or for their shapes alone. XLA compiles without Python's lock.
  """

  def __init__(self) -> None:
    self._work: dict[Hashable, tuple[Callable[[], object], Future[object]]] = {}
    self._lock = threading.Lock()
    threads = min(MOST_AT_A_TIME, os.cpu_count() or 1)
    self._pool = concurrent.futures.ThreadPoolExecutor(threads)

  def __enter__(self) -> "Ahead":
    """Returns the object itself."""
    return self

  def __exit__(self, *error: object) -> None:
    """Forgets what has not begun to be compiled.

    All work is forgotten: it leads to whoever named it, and from there back to this object. In such
    a circle the copies of a model's weights would stay until Python looks for circles.
    """
    self._pool.shutdown(wait=False, cancel_futures=True)
    with self._lock:
      self._work.clear()

  def compile(self, key: Hashable, work: Callable[[], object]) -> None:
    """Has a program compiled by `work`, unless one of this key was named before."""
    with self._lock:
      if key not in self._work:
        self._work[key] = work, self._pool.submit(work)

  def wait(self, key: Hashable) -> None:
    """Waits for a program, as one that is called meanwhile would be compiled twice.

    One that was not begun is compiled here; of one that was not named nothing is known. Where a
    thread could not compile it, the call will say why.
    """
    if key not in self._work:
      return
    work, future = self._work[key]
    if future.cancel():
      work()
    elif not future.cancelled():
      concurrent.futures.wait([future])


def looking_ahead(items: Iterable[T], look: Callable[[T], None]) -> Iterator[T]:
  """Yields items, of which some are looked at before they are worked on."""
  waiting: collections.deque[T] = collections.deque()
  for item in items:
    look(item)
    waiting.append(item)
    if len(waiting) > LOOKED_AHEAD:
      yield waiting.popleft()
  yield from waiting


def shapes_beside(params: Params, tree: Any) -> Any:
  """Returns the shapes of what a program makes of weights that lie on one device.

  They say where it will lie, as a program is another one for other places.
  """
  leaf = jax.tree.leaves(params)[0]
  is_placed = isinstance(leaf, jax.Array) and leaf.committed
  sharding = leaf.sharding if is_placed else None
  return jax.tree.map(
    lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding), tree
  )
