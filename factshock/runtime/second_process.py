"""A second process that does every other part of some work, where there are two processors."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import TypeVar

from factshock.runtime.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def may_be_made() -> bool:
  """Returns whether a second process can be made and pays: none must be beside JAX."""
  return (
    (os.cpu_count() or 1) > 1
    and "fork" in multiprocessing.get_all_start_methods()
    and "jax" not in sys.modules
    and threading.current_thread() is threading.main_thread()
    and not multiprocessing.current_process().daemon
  )


@contextlib.contextmanager
def results(
  function: Callable[[Item], Result | None], items: Sequence[Item]
) -> "Generator[Callable[[], Result | None], None, None]":
  """Lets a second process call a function; yields what gives its result for each item in turn.

  None is given where it raises a UserError, and once the process is gone.

  Args:
    function: what it returns can be pickled.
    items: what it is called with; no process is made where there are none.
  """
  if not items:
    yield lambda: None
    return
  context = multiprocessing.get_context("fork")
  receiver, sender = context.Pipe(duplex=False)
  process = context.Process(target=_send, args=(function, items, sender), daemon=True)
  process.start()
  sender.close()

  def receive() -> Result | None:
    try:
      result: Result | None = receiver.recv()
      return result
    except EOFError:  # it was killed, for want of memory say
      return None

  try:
    yield receive
  finally:
    process.kill()
    process.join()
    receiver.close()


def _send(
  function: Callable[[Item], Result | None],
  items: Iterable[Item],
  sender: Connection,
) -> None:
  """Sends the result for each item to the process that asked for them."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process ends this one
  for item in items:
    try:
      result = function(item)
    except UserError:  # raised again by whoever calls the function in place of this process
      result = None
    sender.send(result)


def map_in_two(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
  """Yields what a function returns for each item; a second process makes every other one.

  Args:
    function: what it returns can be pickled, and is not None.
    items: what it is called with.
  """
  with results(function, items[1::2]) as receive:
    for index, item in enumerate(items):
      result = receive() if index % 2 else None
      yield function(item) if result is None else result
