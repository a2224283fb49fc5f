"""What a finished arm leaves: weights alone, and answers that other arms need not ask again."""

import ml_collections
import numpy as np
import pytest
import tiny

from factshock.checkpoints import loading, store, tree_files
from factshock.runtime.workdir import Workdir
from factshock.study import answers, pipeline, training
from factshock.study.arms import mixed_weights

STEPS = 6


def get_config():
  config = tiny.get_config()
  config.cpu_devices = 0  # the tests have their own
  config.pretrain.update(dict(steps=2, warmup=1, checkpoint_every=10))
  config.finetune.update(dict(steps=STEPS, checkpoint_every=2, eval_steps=(0, STEPS)))
  config.mixing.alphas = (0.0, 0.5, 1.0)
  arms = {name: config.arms[name].to_dict() for name in ("zero_shot_question", "finetune")}
  arms["kept"] = dict(arms["finetune"], keep_optimizer=True, order=1)
  arms["averaged"] = dict(arms["finetune"], ema=0.5)
  arms["all_steps"] = dict(arms["finetune"], keep_checkpoints=True)
  arms["weight_mixing"] = dict(kind="weight_mixing", of="finetune")
  arms["falling"] = dict(kind="weight_mixing", of="finetune", profile="decreasing")
  config.arms = ml_collections.ConfigDict(arms, sort_keys=False)
  config.roles.update(dict(zero_shot="zero_shot_question", ceiling="", remedies=("weight_mixing",)))
  return config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("finished") / "run"
  pipeline.run(get_config(), folder)
  return Workdir.of(folder)


def predictions(workdir, *labels):
  paths = [workdir.predictions(label, 0, split) for label in labels for split in answers.SPLITS]
  found = {}
  for path in paths:
    with open(path, "rb") as file:
      found[path] = file.read()
  return found


def test_a_large_model_lets_go_of_programs_before_it_trains(workdir, tmp_path, monkeypatch):
  forgotten = []
  forget = training.drivers.forget_compiled
  monkeypatch.setattr(training, "_LARGE_BYTES", 0)
  monkeypatch.setattr(training.drivers, "forget_compiled", lambda: (forgotten.append(1), forget()))
  config = get_config()
  for name in set(config.arms) - {"zero_shot_question", "finetune"}:
    del config.arms[name]
  config.roles.remedies = ()
  pipeline.run(config, tmp_path / "run")
  labels = ("zero_shot_question", f"finetune@{STEPS}")
  again = predictions(Workdir.of(tmp_path / "run"), *labels)
  assert list(again.values()) == list(predictions(workdir, *labels).values())
  assert len(forgotten) == 2  # the pretraining, and the arm


def remove(paths):
  import os

  for path in paths:
    os.unlink(path)


@pytest.mark.parametrize(
  "arm, steps, has_optimizer",
  [
    ("finetune", [STEPS], False),
    ("kept", [4, STEPS], True),
    ("averaged", [4, STEPS], True),  # the average answers, and is part of the optimizer's state
    ("all_steps", [2, 4, STEPS], False),
  ],
)
def test_a_finished_arm_keeps_weights_alone(workdir, arm, steps, has_optimizer):
  folder = workdir.checkpoints(arm, 0)
  assert store._steps(folder) == steps
  for step in steps:
    checkpoint = store.restore(folder, step)
    assert (checkpoint["opt_state"] is not None) == has_optimizer and checkpoint["step"] == step
    leaves = store.read_manifest(folder, step)["leaves"]
    assert any(name.startswith("opt_state/") for name in leaves) == has_optimizer
  model, _ = loading.open_model(folder)
  stored = store.restore_params(folder)
  assert tree_files.flat_leaves(model.params).keys() == tree_files.flat_leaves(stored).keys()


def test_what_was_asked_already_is_written_as_if_it_were_asked(workdir, monkeypatch):
  labels = [f"{arm}@{alpha}" for arm in ("weight_mixing", "falling") for alpha in ("0", "0.5", "1")]
  reused = predictions(workdir, *labels)
  asked = []
  answer = answers.answer
  monkeypatch.setattr(
    answers,
    "answer",
    lambda run, point, *a, **k: asked.append(point.label) or answer(run, point, *a, **k),
  )
  remove(reused)
  pipeline.run(get_config(), workdir.path)
  assert asked == ["weight_mixing@0.5", "falling@0.5", "falling@1"]  # falling ends at the head
  assert predictions(workdir, *labels) == reused
  asked.clear()
  monkeypatch.setattr(mixed_weights, "_same_models", lambda *args: [])
  remove(reused)
  pipeline.run(get_config(), workdir.path)
  assert asked == labels and predictions(workdir, *labels) == reused


def test_pretrained_answers_come_from_a_prompted_arm_where_no_step_0_is_asked(workdir):
  config = get_config()
  config.finetune.eval_steps = (STEPS,)
  (point,) = mixed_weights._same_models(config, "weight_mixing", 0.0)
  assert point.label == "zero_shot_question"
  config.arms.finetune.lora_rank = 2
  assert mixed_weights._same_models(config, "weight_mixing", 0.0) == []
  config.arms.finetune.update(dict(lora_rank=0, start="random", eval_steps=(0, STEPS)))
  assert mixed_weights._same_models(config, "weight_mixing", 0.0) == [point]


@pytest.mark.parametrize("arm", ["finetune", "averaged"])
def test_last_answers_that_are_missing_are_had_from_the_last_checkpoint(workdir, arm, monkeypatch):
  before = predictions(workdir, f"{arm}@{STEPS}")
  remove(before)
  monkeypatch.setattr(training.steps, "make_train_step", None)  # nothing is trained
  pipeline.run(get_config(), workdir.path)
  assert predictions(workdir, f"{arm}@{STEPS}") == before


def test_a_soup_is_the_average_of_whole_trees(workdir):
  from factshock.checkpoints import interpolation

  folder = workdir.checkpoints("all_steps", 0)
  start = store.restore_params(workdir.checkpoints("pretrained", 0))
  trees = [start, *(store.restore_params(folder, step) for step in (2, STEPS))]
  run = _Run(workdir)
  averaged = mixed_weights._averaged(
    run, [("all_steps", 0), ("all_steps", 2), ("all_steps", STEPS)]
  )
  expected = tree_files.flat_leaves(interpolation.interpolate(trees, "uniform"))
  got = tree_files.flat_leaves(averaged)
  assert got.keys() == expected.keys()
  for name, leaf in expected.items():
    np.testing.assert_array_equal(got[name], leaf)


class _Run:
  """What of a SeedRun is read."""

  def __init__(self, workdir):
    self.workdir, self.seed, self.config = workdir, 0, get_config()
