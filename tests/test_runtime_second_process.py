"""A second process does every other part; what it cannot do is done by the first."""

import os
import signal

import pytest

from factshock.runtime import second_process
from factshock.runtime.errors import UserError


def test_every_other_part_is_done_by_another_process_and_all_come_in_order():
  done = list(second_process.map_in_two(lambda item: (item, os.getpid()), list(range(5))))
  assert [item for item, _ in done] == list(range(5))
  processes = [process for _, process in done]
  assert set(processes[::2]) == {os.getpid()}
  assert len(set(processes[1::2])) == 1 and processes[1] != os.getpid()


def test_an_error_of_the_other_process_is_raised_here():
  def check(item):
    if item == 3:
      raise UserError(f"{item}: wrong")
    return item

  found = []
  with pytest.raises(UserError, match="^3: wrong"):
    for result in second_process.map_in_two(check, list(range(6))):
      found.append(result)
  assert found == [0, 1, 2]


def test_what_a_killed_process_leaves_is_done_here():
  here = os.getpid()

  def work(item):
    if os.getpid() != here and item == 3:
      os.kill(os.getpid(), signal.SIGKILL)
    return item, os.getpid() == here

  done = list(second_process.map_in_two(work, list(range(6))))
  assert done == [(0, True), (1, False), (2, True), (3, True), (4, True), (5, True)]


def test_whoever_looks_no_further_leaves_no_process():
  seen = second_process.map_in_two(lambda item: os.getpid(), list(range(100)))
  next(seen)
  other = next(seen)
  seen.close()
  with pytest.raises(ProcessLookupError):
    os.kill(other, 0)


def test_none_is_made_beside_jax():
  import jax  # noqa: F401, PLC0415

  assert not second_process.may_be_made()
