"""Progress lines and the time left of an experiment: said only once there is something to go by."""

import io
import re
import time

import numpy as np
import pytest
import tiny

from factshock.answering import batches
from factshock.runtime import files, messages, progress
from factshock.study import pipeline


@pytest.fixture
def clock(monkeypatch):
  """A clock that stands still but for what a test adds."""
  now = [100.0]
  monkeypatch.setattr("time.monotonic", lambda: now[0])
  return now


def test_a_log_has_a_line_every_half_minute_on_stderr(clock, capsys):
  counted = progress.Progress("ranking", 1000)
  for seconds, done in ((1, 0), (30, 5), (10, 8), (20, 10), (30, 500), (1, 1000)):
    clock[0] += seconds
    counted.update(done)
  out, err = capsys.readouterr()
  assert out == ""
  assert err.splitlines() == [
    "  ranking 5/1000 0%, 0:31 elapsed",
    "  ranking 10/1000 1%, 1:01 elapsed, ETA 1:39:00",
    "  ranking 500/1000 50%, 1:31 elapsed, ETA 1:30",
    "  ranking 1000/1000 100%, 1:32 elapsed",
  ]


def test_a_short_step_says_nothing_in_a_log(clock, capsys):
  assert list(progress.over("reading", "abc", 3)) == ["a", "b", "c"]
  assert capsys.readouterr() == ("", "")


def test_a_log_says_that_a_long_wait_was_for_a_compiler(clock, capsys):
  counted = progress.Progress("finetune", 100, compiles=True)
  clock[0] += 40
  counted.update(1, "loss 2.3")
  assert capsys.readouterr().err == "  finetune 1/100 1% (compiled; loss 2.3), 0:40 elapsed\n"


class Terminal(io.StringIO):
  """Text that takes itself for a terminal."""

  def isatty(self):
    return True


def test_a_terminal_gets_a_bar_that_says_when_it_compiles(clock, monkeypatch):
  screen = Terminal()
  monkeypatch.setattr("sys.stderr", screen)
  counted = progress.Progress("finetune", 100, compiles=True)
  assert "finetune   0%|" in screen.getvalue() and "compiling" in screen.getvalue()
  clock[0] += 40
  counted.update(1)
  shown = len(screen.getvalue())
  clock[0] += 10
  time.sleep(0.11)  # tqdm draws ten times a second at most, by the real clock
  counted.update(11, "loss 2.3")
  last = screen.getvalue()[shown:]
  assert "11/100" in last and "ETA 1:29, loss 2.3" in last and "compiling" not in last
  assert max(map(len, re.split("[\r\n]", screen.getvalue()))) <= 121
  counted.update(100)
  assert "100/100" in screen.getvalue()


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_a_large_file_is_shown_by_the_bytes_read(tmp_path, clock, capsys, ending):
  paths = [str(tmp_path / f"{name}.txt{ending}") for name in "ab"]
  for path, seed in zip(paths, range(2)):
    with files.atomic_write(path) as file:  # that no compression makes small
      for line in np.random.default_rng(seed).bytes(1_500_000).hex("\n", 30).split("\n"):
        file.write(line + "\n")
  read = []
  for path in progress.over_files("reading", paths):
    for line_number, _ in files.lines(path):
      clock[0] += line_number % 1000 == 0
      read.append(line_number)
  assert len(read) == 100_000
  lines = re.findall(r"^  reading, MB (\d+)/(\d+) ", capsys.readouterr().err, re.MULTILINE)
  done = [int(number) for number, _ in lines]
  assert len(done) == 4 and done == sorted(done) and 0 < done[0] < done[2]
  assert {int(number) for _, number in lines} == {done[-1]}


def test_a_terminal_gets_no_bar_of_a_short_step(monkeypatch):
  screen = Terminal()
  monkeypatch.setattr("sys.stderr", screen)
  assert list(progress.over("reading", "abc", 3)) == ["a", "b", "c"]
  assert screen.getvalue().strip() == ""


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


def test_a_line_is_printed_above_the_bars_and_none_is_left_at_the_end(monkeypatch):
  screen = Terminal()
  monkeypatch.setattr("sys.stderr", screen)
  monkeypatch.setattr("sys.stdout", screen)
  progress.Progress("short", 10).update(1)
  counted = progress.Progress("finetune", 100, compiles=True)
  shown = len(screen.getvalue())
  messages.say("  a line")
  lines = re.split("[\r\n]", screen.getvalue()[shown:])
  said = lines.index("  a line")
  assert lines[said - 1].strip() == "" < lines[said - 1], "what was there is blanked"
  assert "finetune" in "".join(lines[said + 1 :]) and "short" not in screen.getvalue()
  messages.end_drawings()
  assert re.split("[\r\n]", screen.getvalue())[-2].strip() == ""
  shown = len(screen.getvalue())
  messages.say("  the last line")
  assert screen.getvalue()[shown:] == "  the last line\n"
  del counted
