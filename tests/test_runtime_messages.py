"""Where messages and progress go: stdout for a verb, a function or stderr for who calls us."""

import pytest

from factshock.runtime import messages
from factshock.runtime.progress import Progress


def test_a_verb_prints_messages_on_stdout(capsys):
  messages.say("dropped 3 rows")
  messages.say_aside("computed in float32")
  assert capsys.readouterr() == ("dropped 3 rows\n", "computed in float32\n")


def test_a_function_takes_all_and_nothing_is_printed(capsys):
  lines = []
  with messages.sent_to(lines.append):
    messages.say("dropped 3 rows")
    messages.say_aside("computed in float32")
    Progress("ranking", 10, every=0).update(10)
  assert lines[:2] == ["dropped 3 rows", "computed in float32"] and "ranking 10/10" in lines[2]
  assert capsys.readouterr() == ("", "")
  messages.say("after")
  assert capsys.readouterr().out == "after\n"


def test_messages_can_be_kept_off_stdout_and_whoever_listens_goes_on_to(capsys):
  with messages.kept_off_stdout():
    messages.say("dropped 3 rows")
    assert messages.listener() is None  # progress keeps its bars
  assert capsys.readouterr() == ("", "dropped 3 rows\n")
  lines = []
  with messages.sent_to(lines.append), messages.kept_off_stdout():
    messages.say("dropped 3 rows")
  assert lines == ["dropped 3 rows"] and capsys.readouterr() == ("", "")


def test_an_error_ends_the_listening():
  with pytest.raises(ValueError), messages.sent_to(print):
    raise ValueError
  assert messages.listener() is None
