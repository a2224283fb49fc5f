"""Whose a workdir is: one experiment's at a time, and one training's of a seed."""

import json
import os
import signal

import pytest
import tiny

from factshock.runtime import interruption, locks
from factshock.runtime.errors import UserError
from factshock.runtime.workdir import Workdir
from factshock.study import finetuning, ownership


@pytest.fixture
def workdir(tmp_path):
  return Workdir.of(tmp_path / "runs")


def other_config():
  config = tiny.get_config()
  config.finetune.learning_rate *= 2
  return config


def test_another_experiment_is_refused_while_one_is_at_work(workdir):
  """Two configs started in a new workdir: neither wipes what the other has prepared."""
  facts = workdir.fact_set(0, "test")
  with ownership.at_work(tiny.get_config(), workdir):
    os.makedirs(os.path.dirname(facts))
    with open(facts, "w") as file:
      file.write("{}\n")
    with pytest.raises(UserError, match=r"process \d+ of .* works on another experiment") as error:
      with ownership.at_work(other_config(), workdir):
        pass
    assert "config.finetune.learning_rate" in str(error.value) and os.path.exists(facts)
    with ownership.at_work(tiny.get_config(), workdir):  # the same one may share the work
      pass
  with ownership.at_work(other_config(), workdir):  # nothing was trained, and nobody is there
    assert not os.path.exists(facts)
  assert os.listdir(workdir.locks) == []


def test_a_dead_process_is_at_work_no_more(workdir):
  with ownership.at_work(tiny.get_config(), workdir):
    pass
  left = os.path.join(workdir.locks, "present.0")
  with open(left, "w") as file:
    json.dump({"host": "a", "pid": 999999999, "token": "b", "place": locks._place()}, file)
  with ownership.at_work(other_config(), workdir):
    assert not os.path.exists(left)


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path):
  (tmp_path / "thesis.tex").write_text("")
  with pytest.raises(UserError, match="not empty, and no workdir"):
    with ownership.at_work(tiny.get_config(), Workdir.of(tmp_path)):
      pass
  assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_training_of_another_ratio_is_another_one(workdir):
  config = tiny.get_config()
  with ownership.at_work(config, workdir, {"train": {"ratio": 0.0}}):
    os.makedirs(workdir.all_checkpoints)
  with pytest.raises(UserError, match=r"config.train.ratio: 0.0, 4.0"):
    with ownership.at_work(config, workdir, {"train": {"ratio": 4.0}}):
      pass


def test_workdirs_without_a_ratio_go_on(workdir):
  config = tiny.get_config()
  with ownership.at_work(config, workdir):
    os.makedirs(workdir.all_checkpoints)
  with ownership.at_work(config, workdir, {"train": {"ratio": 4.0}}):
    pass


def test_one_process_at_a_time_trains_a_seed(workdir):
  with finetuning._training_alone(workdir, 0):
    with pytest.raises(UserError, match=r"process \d+ of .* is training seed 0 there"):
      with finetuning._training_alone(workdir, 0):
        pass
    with finetuning._training_alone(workdir, 1):
      pass


@pytest.mark.parametrize("number", interruption.SIGNALS)
def test_a_signal_before_and_after_the_work_ends_the_run(number):
  with pytest.raises(interruption.Interrupted, match=signal.Signals(number).name):
    with interruption.signals_end_run():
      with interruption.signals_caught():
        pass
      signal.raise_signal(number)
  with interruption.signals_end_run(), interruption.signals_caught():
    signal.raise_signal(number)
    assert interruption.requested_signal() == signal.Signals(number).name
  assert interruption.requested_signal() is None
