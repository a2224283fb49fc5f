"""Loggers of a run: which are written, and what Weights & Biases gets, offline and a stand-in."""

import importlib.machinery
import pathlib
import struct
import sys
import types

import pytest
import tiny

from factshock.runtime.errors import UserError
from factshock.study import checks
from factshock.training import loggers
from factshock.training.metrics import Metrics, read_metrics

INFO = loggers.RunInfo("a study", 3, {"finetune": {"steps": 8}})


class Run:
  """Stands in for a run of wandb."""

  def __init__(self, **options):
    self.options = options
    self.offline = False
    self.url = "https://example.org/run"
    self.entries = []
    self.is_finished = False

  def log(self, values, step):
    self.entries.append((step, values))

  def finish(self):
    self.is_finished = True


@pytest.fixture
def runs(monkeypatch):
  """The runs that a stand-in for wandb has begun."""
  begun = []

  def init(**options):
    begun.append(Run(**options))
    return begun[-1]

  stand_in = types.ModuleType("wandb")
  stand_in.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
  stand_in.init, stand_in.Settings, stand_in.Error = init, dict, RuntimeError
  monkeypatch.setitem(sys.modules, "wandb", stand_in)
  return begun


def offline_entries(folder):
  """Every record of the files of wandb's offline runs: a log of LevelDB, with protobuf inside."""
  messages = pytest.importorskip("wandb.proto.wandb_internal_pb2")
  for path in sorted(pathlib.Path(folder).glob("wandb/offline-run-*/*.wandb")):
    data = path.read_bytes()
    at, whole = 7, b""
    while at + 7 <= len(data):
      left = 32768 - at % 32768
      if left < 7:
        at += left
        continue
      size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
      whole += data[at + 7 : at + 7 + size]
      at += 7 + size
      if kind in (1, 4):  # a whole record, or the last part of one
        record = messages.Record()
        record.ParseFromString(whole)
        yield record
        whole = b""


@pytest.mark.parametrize(
  "names, written",
  [
    (["jsonl", "tensorboard"], {"metrics.jsonl", "tensorboard"}),
    (["jsonl"], {"metrics.jsonl"}),
    (["tensorboard"], {"tensorboard"}),
    ([], set()),
  ],
)
def test_only_what_is_named_is_written(tmp_path, names, written):
  with Metrics(tmp_path, names) as metrics:
    metrics.rewind("finetune", 0)
    metrics.write("finetune", 2, {"loss": 1.0})
  assert {path.name for path in tmp_path.iterdir()} == written


def test_a_resumed_training_goes_on_in_its_run_and_one_from_the_start_in_a_new_one(tmp_path, runs):
  for begins_at in (0, 4, 0):
    with Metrics(tmp_path, ["jsonl", "wandb"], INFO) as metrics:
      metrics.rewind("finetune", begins_at)
      metrics.write("finetune", begins_at + 2, {"loss": 0.5})

  ids = [run.options["id"] for run in runs]
  assert ids[0] == ids[1] != ids[2]
  assert [run.entries for run in runs] == [
    [(2, {"loss": 0.5})],
    [(6, {"loss": 0.5})],
    [(2, {"loss": 0.5})],
  ]
  assert all(run.is_finished for run in runs)
  assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1  # of the one from the start


def test_what_a_run_of_wandb_is_called(tmp_path, runs, monkeypatch, capsys):
  monkeypatch.delenv("WANDB_PROJECT", raising=False)
  with Metrics(tmp_path, ["wandb"], INFO) as metrics:
    metrics.write("mixture", 2, {"loss": 0.5})
  options = runs[0].options
  assert options["project"] == "factshock"
  assert (options["group"], options["name"]) == ("a study", "mixture, seed 3")
  assert options["config"] == {"finetune": {"steps": 8}}
  assert capsys.readouterr().err == "wandb: mixture is shown at https://example.org/run\n"

  monkeypatch.setenv("WANDB_PROJECT", "mine")
  with Metrics(tmp_path, ["wandb"], INFO) as metrics:
    metrics.write("mixture", 2, {"loss": 0.5})
  assert runs[1].options["project"] == "mine"


def test_without_a_login_one_line_says_what_to_do(tmp_path, runs, monkeypatch):
  def init(**options):
    raise RuntimeError("No API key\nconfigured.")

  monkeypatch.setattr(sys.modules["wandb"], "init", init)
  with Metrics(tmp_path, ["wandb"]) as metrics:
    with pytest.raises(UserError, match="No API key configured.*WANDB_MODE=offline"):
      metrics.rewind("finetune", 0)


@pytest.mark.parametrize("value", ["tensorbord", "jsonl,jsonl", "jsonl;wandb"])
def test_a_logger_that_there_is_not_is_refused(value):
  config = tiny.get_config()
  config.loggers = value
  with pytest.raises(UserError, match="config.loggers: expected none or some of jsonl, tensorb"):
    checks.check(config)


def test_wandb_that_is_not_installed_is_named_before_any_work(monkeypatch):
  config = tiny.get_config()
  config.loggers = "tensorboard,wandb"
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"config.loggers: 'wandb' needs .*factshock\[wandb\]"):
    checks.check(config)


def test_a_config_without_loggers_is_one_of_before():
  config = tiny.get_config()
  with config.unlocked():
    del config.loggers
  checks.check(config)


def test_wandb_offline_holds_every_step(tmp_path, monkeypatch, capsys):
  pytest.importorskip("wandb", reason="wandb is not installed (extra [wandb])")
  monkeypatch.setenv("WANDB_MODE", "offline")
  for begins_at, steps in ((0, (2, 4)), (4, (6,))):  # the second goes on after an interruption
    with Metrics(tmp_path, ["jsonl", "wandb"], INFO) as metrics:
      metrics.rewind("finetune", begins_at)
      for step in steps:
        metrics.write("finetune", step, {"loss": 1 / step})

  records = list(offline_entries(tmp_path))
  first, second = [record.run for record in records if record.HasField("run")]
  assert first.run_id == second.run_id
  assert (first.run_group, first.display_name) == ("a study", "finetune, seed 3")
  found = []
  for record in records:
    if record.HasField("history"):
      items = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
      found.append((int(items["_step"]), float(items["loss"])))
  assert found == [(2, 1 / 2), (4, 1 / 4), (6, 1 / 6)]
  said = capsys.readouterr()
  assert not said.out and "to upload: wandb sync" in said.err
