"""Flags by their old names: they go on working, say the new one, and do not hide another value."""

import pytest
import verb_flags

from factshock.runtime.errors import UserError

RENAMED = [
  ("answer", "checkpoint", "model"),
  ("extract", "checkpoint", "model"),
  ("mix", "checkpoints", "models"),
  ("mix", "model", "models"),
  ("convert", "input", "model"),
  ("count", "entities", "facts"),
]
REQUIRED = {
  "extract": ["--calibration=c", "--output=o"],
  "count": ["--corpus=c", "--output=o.tsv"],
}


@pytest.mark.parametrize("verb, old, new", RENAMED)
def test_an_old_name_sets_the_new_flag_and_says_so_once(monkeypatch, capsys, verb, old, new):
  values = verb_flags.parsed(
    monkeypatch, verb, f"--{old}=a", f"--{old}", "b", *REQUIRED.get(verb, [])
  )
  assert values[new].value == (["b"] if new == "models" else "b") and values[new].present
  assert capsys.readouterr().err == f"--{old} is now called --{new}\n"
  assert old not in [flag.name for flag in values.get_key_flags_for_module(f"factshock.{verb}")]


@pytest.mark.parametrize(
  "arguments, method, told",
  [
    (["--mode=generate"], "greedy", "--mode is now called --method=greedy\n"),
    (["--mode=generate", "--method=beam"], "beam", "--mode is now called --method=greedy\n"),
    (["--method=beam", "--mode=generate"], "beam", "--mode is now called --method=greedy\n"),
    (["--mode=known"], "known", "--mode is now called --method\n"),
    (["--method=sample"], "sample", ""),
    ([], "rank", ""),
  ],
)
def test_the_mode_of_an_answer_is_its_method(monkeypatch, capsys, arguments, method, told):
  assert verb_flags.parsed(monkeypatch, "answer", *arguments).method == method
  assert capsys.readouterr().err == told


@pytest.mark.parametrize(
  "arguments", [["--mode=rank", "--method=beam"], ["--checkpoint=a", "--model=b"]]
)
def test_both_names_with_other_values_are_an_error(monkeypatch, arguments):
  with pytest.raises(UserError, match="which has another value; give --"):
    verb_flags.parsed(monkeypatch, "answer", *arguments)
  verb_flags.parsed(monkeypatch, "answer", "--checkpoint=a", "--model=a")
