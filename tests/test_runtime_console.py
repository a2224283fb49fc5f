"""Progress lines and the time left of an experiment: said only once there is something to go by."""

import numpy as np
import pytest
import tiny

from factshock import answer
from factshock.answering import batches
from factshock.runtime import console
from factshock.study import pipeline


@pytest.fixture
def clock(monkeypatch):
  """A clock that stands still but for what a test adds."""
  now = [100.0]
  monkeypatch.setattr("time.monotonic", lambda: now[0])
  return now


def test_an_eta_comes_once_a_hundredth_is_done(clock, capsys):
  progress = console.Progress("ranking", 1000)
  for seconds, done in ((1, 0), (10, 5), (10, 10), (10, 500)):
    clock[0] += seconds
    progress.update(done)
  first, second, third = capsys.readouterr().out.splitlines()
  assert first == "  ranking 5/1000 0%, 0:11 elapsed"
  assert second == "  ranking 10/1000 1%, 0:21 elapsed, ETA 33:00"
  assert third == "  ranking 500/1000 50%, 0:31 elapsed, ETA 0:30"


def test_the_time_left_is_not_told_by_one_stage(clock):
  config = tiny.get_config()
  stages = pipeline._stages(config)
  total = pipeline.Clock(config, stages)
  clock[0] += 60
  total.finish(0, "zero_shot_cloze")
  assert "left" not in total.describe().replace("stages to go", "")
  total.finish(0, "zero_shot_question")
  total.finish(0, "finetune")
  assert "1:00 elapsed, about " in total.describe()


def test_a_given_model_is_no_stage_that_was_done_before():
  config = tiny.get_config()
  names = [name for _, name in pipeline._stages(config)]
  assert names[0] == pipeline.PRETRAINED
  config.start_from = "somewhere"
  config.pretrain.steps = 0
  assert [name for _, name in pipeline._stages(config)] == names[1:]


def test_what_devices_compute_comes_back_in_order_with_few_on_their_way():
  started = []

  def items():
    for index in range(3 * batches.IN_FLIGHT):
      started.append(index)
      yield index, np.full(2, index)

  ahead = []
  for index, array in batches.fetched_in_turn(items()):
    assert array.tolist() == [index, index]
    ahead.append(len(started) - index)
  assert ahead[0] == batches.IN_FLIGHT + 1 == max(ahead) and len(ahead) == 3 * batches.IN_FLIGHT


def test_answers_that_hold_a_right_one_are_counted_too():
  rows = [
    {"prediction": "Paris", "object": "Paris"},
    {"prediction": "It is Paris, I think", "object": "paris"},
    {"prediction": "the big apple", "object": "New York", "aliases": ["Big Apple"]},
    {"prediction": "Rome", "object": "Oslo"},
  ]
  assert answer._how_many_right(rows) == (
    "4 answers, 1 of them word for word right (25.0%), 3 hold an accepted answer (75.0%)"
  )
