"""Remedies that need the pretrained model alone: its own text in a mixture, and the answers it is
surest of.
"""

import gzip
import json
import types

import ml_collections
import numpy as np
import pytest
import tiny
import tiny_folders
import tiny_pretrained

from factshock.configs import remedies
from factshock.facts import relations as relation_files
from factshock.facts import schema, world
from factshock.predictions.points import Point
from factshock.runtime.errors import UserError
from factshock.runtime.workdir import Workdir
from factshock.study import checks, comparisons, pipeline, replay, roles
from factshock.study.arms import registry, taught

ARMS = ("zero_shot_cloze", "zero_shot_question", "finetune", "replay", "believed", "surest")


def tiny_config():
  config = tiny.get_config()
  config.arms = ml_collections.ConfigDict(
    {name: remedies.arms()[name] for name in ARMS}, sort_keys=False
  )
  config.roles.update(dict(remedies=()))
  return config


def texts_of(workdir, seed=0):
  with gzip.open(f"{workdir}/facts/{seed}/text_replay_0.jsonl.gz", "rt") as file:
    return [json.loads(line)["text"] for line in file]


def test_an_encoder_decoder_studies_text_that_it_wrote(tmp_path, monkeypatch):
  runs = []
  write = replay.write_if_missing
  monkeypatch.setattr(
    replay, "write_if_missing", lambda run, count: (runs.append(run), write(run, count))
  )
  diagnosed = pipeline.run(tiny_config(), str(tmp_path))
  texts = texts_of(tmp_path)
  assert 8 < len(texts) <= 8 * 8  # steps x batch size x ratio, but for texts that stay empty
  assert len(set(texts)) > 1 and not any("<extra_id" in text for text in texts)
  assert {"replay", "believed", "surest"} <= set(diagnosed["arms"])
  path = tmp_path / "facts" / "0" / "text_replay_0.jsonl.gz"
  content = path.read_bytes()
  write(runs[0], 64)
  assert path.read_bytes() == content  # it is written once ...
  path.unlink()
  write(runs[0], 64)
  assert path.read_bytes() == content  # ... and the same again


def test_a_decoder_needs_no_corpus_to_mix_in_its_own_text(tmp_path):
  made = world.make_world(0, relations=2, subjects=40, answers=6, mean_mentions=3)
  schema.write_facts(tmp_path / "facts.jsonl", made.facts)
  relation_files.write_relations(tmp_path / "relations.jsonl", made.relations)
  answers = sorted({fact["object"] for fact in made.facts})
  (tmp_path / "counts.tsv").write_text(
    "entity\tcount\n" + "".join(f"{answer}\t1\n" for answer in answers)
  )
  tiny_folders.make(tmp_path, made.sentences)
  config = tiny_pretrained.get_config(str(tmp_path / "llama"))
  config.cpu_devices = 0  # the tests have their own
  config.facts = str(tmp_path / "facts.jsonl")
  config.relations = str(tmp_path / "relations.jsonl")
  config.entity_counts = str(tmp_path / "counts.tsv")
  with pytest.raises(UserError, match="config.corpus=PATH: a text, is needed by mixture"):
    checks.check(config)
  with config.unlocked():
    config.arms.mixture.update(dict(text="replay", ratio=1.0))
  pipeline.run(config, str(tmp_path / "run"))
  texts = texts_of(tmp_path / "run")
  assert len(set(texts)) > 1


def test_the_surest_are_kept_of_each_relation():
  beliefs = [[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.5, 0.5], [0.51, 0.49], [0.55, 0.45]]
  facts = [
    {"subject": f"s{row}", "relation": "rq"[row // 4], "object": "a", "row": row}
    for row in range(6)
  ]
  beliefs = [np.array(belief) for belief in beliefs]
  kept = lambda share: taught._surest(facts, beliefs, share)
  assert kept(0.5) == [0, 2, 5]
  assert kept(0.75) == [0, 1, 2, 4, 5]
  assert kept(0.01) == [0, 5]


def test_halves_by_confidence_go_by_the_probability_of_the_object(monkeypatch, tmp_path):
  likely = [0.9, 0.1, 0.4, 0.0005, 0.2]
  facts = [{"subject": f"s{row}", "relation": "r", "object": "a", "row": row} for row in range(5)]
  monkeypatch.setattr(
    taught,
    "_beliefs",
    lambda run, pool, teacher, least: [
      np.array([likely[f["row"]], 1 - likely[f["row"]]]) for f in pool
    ],
  )
  monkeypatch.setattr(taught.answers, "on_object", lambda run, fact: np.array([1.0, 0.0]))
  run = types.SimpleNamespace(
    sets=dict(pool=facts),
    seed=0,
    model_sets={},
    workdir=Workdir.of(str(tmp_path)),
    config=types.SimpleNamespace(roles=types.SimpleNamespace(ceiling="cloze")),
  )
  rows = lambda name: sorted(fact["row"] for fact in taught.facts_of(run, name))
  assert rows("confident_half") == [0, 2] and rows("unconfident_half") == [1, 3]
  kept = schema.read_facts(run.workdir.fact_set(0, "confident_half"))
  assert sorted(fact["confidence"] for fact in kept) == [0.4, 0.9]


def test_what_is_believed_is_the_surest_answers(monkeypatch):
  run = types.SimpleNamespace(
    config=types.SimpleNamespace(
      arms=dict(
        believed=ml_collections.ConfigDict(
          dict(facts="balanced", labels="best", teacher="cloze", sure_share=0.5)
        ),
        surest=ml_collections.ConfigDict(dict(facts="balanced", teacher="cloze", sure_share=0.5)),
      )
    ),
    sets=dict(
      balanced=[
        {"subject": f"s{row}", "relation": "r", "object": "a", "row": row} for row in range(2)
      ]
    ),
  )
  beliefs = [np.array([0.6, 0.4]), np.array([0.1, 0.9])]

  def believed(run, facts, teacher):
    assert teacher == "cloze"
    return [beliefs[fact["row"]] for fact in facts]

  monkeypatch.setattr(taught, "_beliefs", believed)
  monkeypatch.setattr(taught.answers, "on_object", lambda run, fact: np.array([1.0, 0.0]))
  facts, belief = taught.taught(run, "believed")
  assert [fact["row"] for fact in facts] == [1]
  np.testing.assert_array_equal(belief, [[0.0, 1.0]])
  facts, belief = taught.taught(run, "surest")
  assert [fact["row"] for fact in facts] == [1] and belief is None


def test_they_are_remedies_with_their_needs():
  config = tiny_config()
  checks.check(config)
  mended = comparisons.remedies(config)
  assert {mended[name] for name in ("replay", "believed", "surest")} == {"finetune"}
  assert "finetune" not in registry.points(config, "replay")[0].label
  assert roles.with_role(config, roles.MIXTURE) == ["replay"]
  needs = {
    name: registry.kind_of(config, name).advice(config, name).needs
    for name in ("replay", "believed")
  }
  assert needs["replay"] == "the model before finetuning"
  assert "no labels" in needs["believed"]
  labels = [Point(name).label for name in ARMS]
  assert ("replay", "finetune") in comparisons.pairs(config, labels)


@pytest.mark.parametrize(
  "change, expected",
  [
    (
      dict(replay=dict(ratio=0.0)),
      "config.arms.replay: text='replay' is read by arms with a ratio",
    ),
    (dict(surest=dict(teacher="finetune")), "config.arms.surest.teacher: expected an arm of kind"),
    (dict(finetune=dict(sure_share=0.5)), "config.arms.finetune: labels='soft' or 'best', or sure"),
    (dict(surest=dict(sure_share=1.0)), "config.arms.surest.sure_share: expected a number"),
    (dict(surest=dict(gold_share=0.5)), "config.arms.surest: gold_share goes with a teacher"),
  ],
)
def test_arms_that_cannot_be(change, expected):
  config = tiny_config()
  with config.unlocked():
    for name, keys in change.items():
      config.arms[name].update(keys)
  with pytest.raises(UserError) as caught:
    checks.check(config)
  assert expected in str(caught.value)
