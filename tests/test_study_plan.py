"""Some arms of a config with what they need, inputs by flags of their own, and a plan of it all."""

import importlib
import json

import pytest
import tiny
import verb_flags

from factshock.runtime.errors import UserError
from factshock.runtime.workdir import Workdir
from factshock.study import checks, chosen_arms, inputs, ownership, plan


def test_arms_are_kept_with_what_they_need_and_roles_of_others_are_empty():
  config = tiny.get_config()
  order = list(config.arms)
  needed = chosen_arms.keep(config, ["weight_mixing"])
  assert needed == ["finetune"]
  assert list(config.arms) == [name for name in order if name in ("finetune", "weight_mixing")]
  checks.check(config)
  roles = config.roles
  named = [roles.zero_shot, roles.finetuned, roles.ceiling, roles.corrected, *roles.remedies]
  assert set(named) <= {"", "finetune", "weight_mixing"}


def test_an_arm_that_there_is_not_is_told():
  with pytest.raises(UserError, match="--arms=finetun is unknown; did you mean 'finetune'"):
    chosen_arms.keep(tiny.get_config(), ["finetun"])


def test_a_workdir_remembers_arms_that_a_run_leaves_out(tmp_path):
  workdir = Workdir.of(tmp_path)
  whole, part, other = (tiny.get_config() for _ in range(3))
  chosen_arms.keep(part, ["finetune"])
  with other.unlocked():
    other.arms.weight_mixing.title = "a title may change"
    other.arms.mixture.ratio = 7
  with ownership.at_work(whole, workdir):
    (tmp_path / "predictions").mkdir()
  with ownership.at_work(part, workdir):
    pass
  assert set(json.loads((tmp_path / "config.json").read_text())["arms"]) == set(whole.arms)
  with pytest.raises(UserError, match="config.arms.mixture.ratio: "):
    with ownership.at_work(other, workdir):
      pass


def test_inputs_by_flags_of_their_own_take_the_place_of_the_configs():
  config = tiny.get_config()
  config.relations = "relations.jsonl"
  inputs.put(config, facts="facts.jsonl", corpus="text.txt")
  assert (config.facts, config.relations, config.corpus) == (
    "facts.jsonl",
    "relations.jsonl",
    "text.txt",
  )
  inputs.put(config, facts="popqa:popqa.csv", model="google/flan-t5-small")
  assert (config.facts, config.relations) == ("popqa:popqa.csv", "")
  assert config.start_from == "google/flan-t5-small"
  inputs.put(config, facts="popqa:popqa.csv", relations="mine.jsonl")
  assert config.relations == "mine.jsonl"


@pytest.mark.parametrize("verb", ["train", "experiment"])
def test_a_flag_and_the_key_that_it_sets_are_not_given_both(monkeypatch, verb):
  from factshock.runtime import study_flags

  verb_flags.parsed(monkeypatch, verb, "--config=demo", "--facts=a", "--config.facts=b")
  with pytest.raises(UserError, match="--facts and --config.facts are the same; give one"):
    study_flags.given()


def test_a_plan_names_stages_steps_tokens_memory_and_time(monkeypatch, capsys, tmp_path):
  monkeypatch.chdir(tmp_path)
  path = f"{tiny.__file__}"
  verb_flags.parsed(
    monkeypatch,
    "experiment",
    f"--config={path}",
    "--arms=mixture,weight_mixing",
    "--dry_run",
    "--config.seeds=2",
  )
  importlib.import_module("factshock.experiment").main([])
  printed = capsys.readouterr().out.splitlines()
  config = tiny.get_config()
  rows = config.finetune.batch_size * (1 + config.arms.mixture.ratio)
  length = config.finetune.input_length + config.finetune.target_length
  tokens = config.finetune.steps * round(rows) * length
  assert printed[0].startswith("arms: mixture, weight_mixing, and finetune, which they need")
  table = [line.split() for line in printed[1:6]]
  assert [row[0] for row in table] == [
    "stage",
    "pretrained",
    "finetune",
    "mixture",
    "weight_mixing",
  ]
  assert table[3][2:4] == [f"{config.finetune.steps:,}", f"{tokens:,}"]
  assert table[4][2:4] == ["-", "-"]
  steps = 2 * (config.pretrain.steps + 2 * config.finetune.steps)
  assert f"2 seeds of 4 stages: {steps:,} training steps" in printed[6]
  assert any("memory a device: " in line for line in printed)
  assert printed[-1].startswith("time: about ")
  assert not list(tmp_path.iterdir())


def test_a_plan_without_training_has_no_step_to_time():
  config = tiny.get_config()
  chosen_arms.keep(config, ["majority"])
  config.pretrain.steps = 0
  *_, total, note = plan.lines(config)
  assert ": 0 training steps, at most 0 tokens" in total
  assert note == "nothing is trained: memory is that of asking the model"
