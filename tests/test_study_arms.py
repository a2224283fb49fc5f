"""Kinds of arms: found by themselves, described, and compared by what they are, not by name."""

import inspect
import re

import ml_collections
import pytest
import tiny
import tiny_attention
import tiny_remedies

from factshock.configs import attention, demo, remedies, trex_t5, which_facts
from factshock.predictions import points
from factshock.predictions.points import Point
from factshock.report import page, plots, reading
from factshock.report import remedies as remedies_table
from factshock.runtime.errors import UserError
from factshock.study import arms, checks, comparisons, descriptions, pipeline, roles
from factshock.study.arms import registry

# A file as somebody who adds a remedy would write it.
NEW_KIND = """
from factshock.study import config as configs
from factshock.study.arms.kind import Advice, Kind


def _run(run, name):
  raise NotImplementedError


KINDS = [
  Kind(
    name="wish",
    keys=configs.arm_schema(of=configs.required(configs.TEXT)),
    run=_run,
    group="remedy",
    caption="Facts that are wished for.",
    advice=lambda config, name: Advice("a star", "a night", "nothing else helps"),
    comparisons=lambda config, name: [(name, config.roles.ceiling)],
  )
]
"""
WITH_ALL = (demo, remedies, attention, trex_t5, tiny, tiny_remedies, tiny_attention)


def table_labels(config):
  labels = []
  for name in config.arms:
    labels.append(name)
    if registry.kind_of(config, name).varies == "step":
      labels.append(Point(name).early.label)
  return labels


def pairs_of(config):
  return comparisons.pairs(config, table_labels(config))


def set_arms(config, sections):
  config.arms = ml_collections.ConfigDict(sections, sort_keys=False)
  return config


@pytest.fixture
def wish(tmp_path, monkeypatch):
  """The kind "wish", of one file that is put into the folder of the kinds."""
  (tmp_path / "wishes.py").write_text(NEW_KIND)
  monkeypatch.setattr(arms, "__path__", [*arms.__path__, str(tmp_path)])
  registry.kinds.cache_clear()
  yield
  registry.kinds.cache_clear()


@pytest.mark.parametrize("name", registry.kinds())
def test_every_kind_has_its_texts(name):
  kind = registry.kinds()[name]
  assert re.fullmatch(r"[A-Z].{20,}[.]", kind.caption)
  assert kind.group and {"title", "group"} <= set(kind.keys)
  assert inspect.getdoc(kind.run), "says what it does"


@pytest.mark.parametrize("module", WITH_ALL, ids=lambda module: module.__name__)
def test_every_arm_is_described(module):
  config = module.get_config()
  for label in table_labels(config):
    description = descriptions.describe(config, label)
    texts = [description[key] for key in ("kind", "needs", "cost", "use_when", "caption")]
    assert all(isinstance(text, str) and text for text in texts), label


def test_the_configs_hold_every_kind():
  used = {arm.kind for module in WITH_ALL for arm in module.get_config().arms.values()}
  assert used == set(registry.kinds())


def test_a_kind_is_added_by_one_file(wish, monkeypatch):
  config = demo.get_config()
  sections = {name: arm.to_dict() for name, arm in config.arms.items()}
  set_arms(config, {**sections, "mine": dict(kind="wish", of="finetune", title="My remedy")})
  checks.check(config)
  assert pipeline.order(config).index("mine") > pipeline.order(config).index("finetune")
  expected = {("mine", "finetune"), ("mine", "finetune_early"), ("mine", "zero_shot_question")}
  assert expected | {("mine", "zero_shot_cloze")} <= set(pairs_of(config))

  estimate = {"mean": 0.1, "low": 0.05, "high": 0.15}
  diagnosis = {
    "arms": {label: {"right": estimate} for label in table_labels(config)},
    "table": table_labels(config),
    "titles": {label: descriptions.title(config, label) for label in table_labels(config)},
    "groups": {label: descriptions.group(config, label) for label in table_labels(config)},
    "descriptions": {label: descriptions.describe(config, label) for label in table_labels(config)},
    "remedies": comparisons.remedies(config),
    "comparisons": [
      {"arm": arm, "against": against, "difference": estimate} for arm, against in pairs_of(config)
    ],
  }
  row = remedies_table.table(diagnosis).split("My remedy")[1].split("</tr>")[0]
  assert all(text in row for text in ("+.100", "a star", "a night", "nothing else helps"))
  shown = page.render(page.reading.tidy(diagnosis), {})
  assert "Facts that are wished for." in shown


def test_two_kinds_of_one_name_are_refused(wish, tmp_path):
  (tmp_path / "wishes_too.py").write_text(NEW_KIND)
  with pytest.raises(ValueError, match="another kind 'wish'"):
    registry.kinds()


def test_a_kind_that_is_not_there_is_named_with_those_that_are():
  config = tiny.get_config()
  set_arms(config, {"mine": dict(kind="wish", of="finetune")})
  with pytest.raises(UserError, match="expected one of .*soup.*, got 'wish'"):
    checks.check(config)


def renamed(config):
  """The config with other names for all arms, and the new name of each label."""
  new = {name: f"arm{index}" for index, name in enumerate(config.arms)}
  sections = {}
  for name, arm in config.arms.items():
    section = arm.to_dict()
    for key in ("of", "with_arm", "teacher"):
      if key in section:
        section[key] = new[section[key]]
    if "of_arms" in section:
      section["of_arms"] = tuple(new[other] for other in section["of_arms"])
    sections[new[name]] = section
  set_arms(config, sections)
  for role in ("zero_shot", "finetuned", "ceiling", "corrected"):
    config.roles[role] = new.get(config.roles[role], "")
  config.roles.remedies = tuple(new[name] for name in config.roles.remedies)
  return config, new


@pytest.mark.parametrize("module", WITH_ALL, ids=lambda module: module.__name__)
def test_comparisons_do_not_hang_on_names(module):
  before = module.get_config()
  after, new = renamed(module.get_config())
  checks_of_names = points.name_problems(after.arms)
  assert not checks_of_names

  def relabel(label):
    point = Point.parse(label)
    return Point(new[point.arm], point.value, point.is_early).label

  assert pairs_of(after) == [(relabel(arm), relabel(other)) for arm, other in pairs_of(before)]
  for name in before.arms:
    assert descriptions.describe(after, new[name]) == descriptions.describe(before, name)
  described = {new[name]: descriptions.describe(before, name) for name in before.arms}
  halves = reading.halves({"arms": {}, "table": list(described), "descriptions": described})
  assert halves.popular == new.get("popular_half") and halves.whole == new.get("whole")


def test_arms_look_alike_whatever_their_names():
  before = demo.get_config()
  after, new = renamed(demo.get_config())
  names = ["finetune", "mixture", "combined", "natural"]
  looks = []
  for config, labels in ((before, names), (after, [new[name] for name in names])):
    described = {label: descriptions.describe(config, label) for label in labels}
    looks.append(list(plots.styles({"arms": {}, "descriptions": described}, labels).values()))
  assert looks[0] == looks[1]


def finetune(facts, **options):
  return dict(kind="finetune", facts=facts, **options)


def test_low_and_high_mismatch_are_compared():
  config = tiny.get_config()
  own = {name: config.arms[name].to_dict() for name in ("zero_shot_question", "finetune")}
  sections = {
    **own,
    "far": finetune("high_mismatch"),
    "near": finetune("low_mismatch"),
    "far_adapters": finetune("high_mismatch", lora_rank=2),
    "near_adapters": finetune("low_mismatch", lora_rank=2),
    "far_mixed": dict(kind="weight_mixing", of="far"),
    "near_mixed": dict(kind="weight_mixing", of="near"),
  }
  set_arms(config, sections)
  config.roles.update(dict(ceiling="", remedies=()))
  checks.check(config)
  pairs = set(pairs_of(config))
  assert {
    ("far", "near"),
    ("far_early", "near_early"),
    ("far_adapters", "near_adapters"),
    ("far_mixed", "near_mixed"),
  } <= pairs
  assert not {("far", "near_adapters"), ("far", "near_mixed"), ("near", "far")} & pairs


def test_a_mixture_is_one_on_the_finetuned_arms_facts():
  config = tiny.get_config()
  own = {name: config.arms[name].to_dict() for name in ("zero_shot_question", "finetune")}
  sections = {
    **own,
    "stirred": finetune("balanced", ratio=2.0),
    "stirred_elsewhere": finetune("whole", ratio=2.0),
    "silent": finetune("balanced", ratio=2.0, question_weight=0.0),
    "shuffled": finetune("balanced", ratio=2.0, text="random_words"),
    "both": dict(kind="weight_mixing", of="stirred"),
    "alone": dict(kind="weight_mixing", of="finetune"),
  }
  set_arms(config, sections)
  config.roles.update(dict(ceiling="", remedies=()))
  assert roles.with_role(config, roles.MIXTURE) == ["stirred"]
  assert roles.with_role(config, roles.TEXT_ALONE) == ["silent"]
  assert roles.with_role(config, roles.COMBINED) == ["both"]
  assert roles.with_role(config, roles.WEIGHT_MIXING) == ["alone"]
  pairs = set(pairs_of(config))
  expected = {
    ("both", "stirred"),
    ("both", "alone"),
    ("both", "silent"),
    ("stirred", "silent"),
    ("shuffled", "finetune"),
    ("stirred", "shuffled"),
  }
  assert expected <= pairs


def test_halves_asked_with_shots_are_compared():
  config = tiny.get_config()
  set_arms(config, which_facts.arms("question", 2))
  config.roles.update(dict(zero_shot="zero_shot", finetuned="whole", ceiling="", remedies=()))
  assert ("popular_half_k_shot", "unpopular_half_k_shot") in pairs_of(config)


@pytest.mark.parametrize(
  "name", ["finetune_early", "a@3", "a/b", "a b", "pretrained", "preparing", "Finetune"]
)
def test_names_of_arms_that_could_be_taken_for_something_else_are_refused(name):
  config = tiny.get_config()
  sections = {other: arm.to_dict() for other, arm in config.arms.items()}
  set_arms(config, {**sections, name: finetune("whole")})
  with pytest.raises(UserError, match="choose another name") as caught:
    checks.check(config)
  assert f"config.arms.{name}: " in str(caught.value)


def test_names_of_a_workdirs_own_files_are_reserved():
  assert {pipeline.PRETRAINED, pipeline.PREPARING} == set(points.RESERVED)
