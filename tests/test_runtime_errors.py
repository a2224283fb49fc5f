"""Errors of what the user can put right: no longer than a screen, whatever they quote."""

import pickle

import pytest

from factshock.runtime.errors import UserError


def test_a_long_line_keeps_its_beginning_and_its_end():
  error = UserError(f"facts.csv:3: expected a number, got {'x' * 1_000_000!r}; remove it")

  assert str(error).startswith("facts.csv:3: expected a number, got 'xxx")
  assert str(error).endswith("xxx'; remove it")
  assert "999," in str(error) and len(str(error)) < 700


def test_of_many_lines_the_first_are_kept():
  lines = str(UserError("\n".join(map(str, range(100_000))))).split("\n")

  assert lines[:2] == ["0", "1"] and lines[-1] == "... (99,961 more lines)" and len(lines) == 40


@pytest.mark.parametrize("text", ["", "short", "x" * 600, "y" * 5000, "z\n" * 90])
def test_pickled_it_stays_as_it_is(text):
  error = UserError(text)

  assert str(pickle.loads(pickle.dumps(error))) == str(error)
