"""What is wrong with a command line: one line, in the same words for all verbs, and exit code 2."""

import subprocess
import sys

import pytest
import verb_flags
from absl import flags

from factshock.runtime import flag_errors
from factshock.runtime.errors import UserError

CONFIG = "--config.KEY=VALUE sets a key of the config"
METHODS = "rank, greedy, beam, sample, votes, letters, choices, known"
WRONG = {
  ("answer", "--shots=-1"): "--shots: expected a whole number of at least 0, got '-1'",
  ("answer", "--shots=x"): "--shots: expected a whole number of at least 0, got 'x'",
  ("answer", "--temperature=0"): "--temperature: expected a number of at least 0.001, got '0'",
  (
    "answer",
    "--method=best",
  ): f"--method: expected one of {METHODS}, got 'best'",
  (
    "answer",
    "--mode=best",
  ): f"--method: expected one of {METHODS}, got 'best'",
  ("answer", "--candidates_only=maybe"): "--candidates_only: expected true or false, got 'maybe'",
  ("answer", "--model"): "--model: expected a value, got nothing",
  (
    "answer",
    "--modle=a",
  ): f"there is no flag --modle; did you mean --model? --help lists the flags (and {CONFIG})",
  (
    "answer",
    "--checkpont=a",
  ): f"there is no flag --checkpont; did you mean --model? --help lists the flags (and {CONFIG})",
  ("count", "--xyzxyz"): "there is no flag --xyzxyz; --help lists the flags",
  (
    "answer",
    "--config.finetune.steps=3",
  ): "--config.finetune.steps: needs --config=NAME too, the config whose key it sets",
  ("correct", "--tau=1"): "needs --predictions; --help explains",
  (
    "diagnose",
    "--confidence=2",
  ): "--confidence: expected a number from 0.5 to 0.999, got '2'",
}


@pytest.mark.parametrize("verb, argument", WRONG)
def test_a_wrong_flag_is_told_in_one_line(monkeypatch, verb, argument):
  with pytest.raises(flags.Error) as caught:
    verb_flags.parsed(monkeypatch, verb, argument)
  assert flag_errors.describe(caught.value, flags.FLAGS) == WRONG[verb, argument]


def test_a_key_of_the_config_of_a_model_is_told(monkeypatch):
  with pytest.raises(flags.Error) as caught:
    verb_flags.parsed(monkeypatch, "train", "--model=a/b", "--config.finetune.steps=3")
  told = flag_errors.describe(caught.value, flags.FLAGS)
  assert told.endswith("sets (--config=pretrained:a/b in the place of --model)")


def test_a_key_of_the_config_before_the_config_is_told(monkeypatch):
  with pytest.raises(flags.Error) as caught:
    verb_flags.parsed(monkeypatch, "experiment", "--config.finetune.steps=3", "--config=demo")
  told = flag_errors.describe(caught.value, flags.FLAGS)
  assert told == "--config.finetune.steps: stands before --config, whose key it sets; give it after"


def test_a_value_that_a_key_of_the_config_does_not_take_is_told(monkeypatch):
  with pytest.raises(flags.Error) as caught:
    verb_flags.parsed(monkeypatch, "experiment", "--config=demo", "--config.finetune.steps=few")
  told = flag_errors.describe(caught.value, flags.FLAGS)
  assert told == "--config.finetune.steps: expected a whole number, got 'few'"


def test_an_arm_takes_keys_that_its_config_does_not_name(monkeypatch):
  values = verb_flags.parsed(
    monkeypatch,
    "experiment",
    "--config=demo",
    "--config.arms.finetune.learning_rate=1e-4",
    "--config.arms.finetune.eval_steps=0,5",
    "--config.arms.mixture.pack",
    "--config.arms.k_shot.title=Two",
  )
  arms = values.config.arms
  assert arms.finetune.learning_rate == 1e-4 and arms.finetune.eval_steps == (0, 5)
  assert arms.mixture.pack is True and arms.k_shot.title == "Two"
  assert "learning_rate" not in arms.mixture


@pytest.mark.parametrize(
  "key, problem",
  [
    ("arms.finetune.learning_rat", "is unknown; did you mean 'learning_rate'"),
    ("arms.majority.learning_rate", "is unknown; known here: group, title"),
    ("finetune.step", "is unknown; did you mean 'steps'"),
    ("arms.finetun.steps", "there is no key 'finetun'; did you mean 'finetune'"),
  ],
)
def test_a_key_that_nothing_has_is_told(monkeypatch, key, problem):
  with pytest.raises(UserError, match=problem):
    verb_flags.parsed(monkeypatch, "experiment", "--config=demo", f"--config.{key}=1")


def test_the_program_ends_with_2():
  done = subprocess.run(
    [sys.executable, "-m", "factshock", "answer", "--ouput=a"], capture_output=True, text=True
  )
  assert done.returncode == 2 and done.stdout == ""
  assert done.stderr.startswith("error: there is no flag --ouput; did you mean --output? ")
  assert done.stderr.count("\n") == 1
