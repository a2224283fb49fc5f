"""Every kind of input, changed by a seed: read with right values or refused, never else."""

import pytest
from fuzz import frame, kinds

_EACH = 1000 // len(kinds.MODULES)


@pytest.mark.parametrize("name", kinds.MODULES)
def test_inputs_are_read_right_or_refused(name, tmp_path):
  tally = frame.run(name, kinds.fuzzer(name), range(_EACH), 0, tmp_path)

  assert not tally.failures, tally.line()


@pytest.mark.slow
@pytest.mark.parametrize("name", kinds.MODULES)
def test_twenty_times_as_many_inputs(name, tmp_path):
  tally = frame.run(name, kinds.fuzzer(name), range(20 * _EACH), 1, tmp_path)

  assert not tally.failures, tally.line()


def test_a_traceback_a_hang_and_another_value_are_failures(monkeypatch):
  monkeypatch.setattr(frame, "SECONDS", 1)

  def hang():
    while True:
      pass

  def flood():
    error = frame.UserError("")
    error.args = ("x" * 10_000,)
    raise error

  assert frame.outcome_of(frame.Case(lambda: 1 / 0))[0] == "traceback"
  assert frame.outcome_of(frame.Case(hang))[0] == "hang"
  assert frame.outcome_of(frame.Case(lambda: bytearray(1 << 40)))[0] == "memory"
  assert frame.outcome_of(frame.Case(lambda: 2, lambda value: f"{value}, not 1"))[0] == "wrong"
  assert frame.outcome_of(frame.Case(flood))[0] == "flood"
  assert frame.outcome_of(frame.Case(lambda: 1)) == ("read", "")
