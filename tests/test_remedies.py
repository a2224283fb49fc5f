"""The parts that remedies and controls are made of: sets by what a model knows, drawn labels, texts
with documents left out.
"""

import collections
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tiny_remedies

from factshock.configs import demo as configs_demo
from factshock.configs import remedies as configs_remedies
from factshock.configs import trex_remedies as configs_trex_remedies
from factshock.data import example_sources, mixture, soft_labels
from factshock.facts import entities, splits
from factshock.report import remedies
from factshock.runtime.errors import UserError
from factshock.study import answers, checks, comparisons, descriptions, pretraining_text
from factshock.study.study_data import StudyData
from factshock.training import train_step

ROOT = pathlib.Path(__file__).parents[1]


def fact(number, answer, popularity=1.0, relation="r", **more):
  return {
    "subject": f"s{number}",
    "relation": relation,
    "object": answer,
    "popularity": popularity,
    **more,
  }


def test_permuted_answers_are_the_same_answers():
  facts = [
    fact(n, f"o{n % 7}", relation="rq"[n % 2], **({"aliases": [f"alias {n % 7}"]} if n % 3 else {}))
    for n in range(40)
  ]
  found = splits.permuted_answers(facts, 1)
  histogram = lambda rows: collections.Counter((row["relation"], row["object"]) for row in rows)
  assert histogram(found) == histogram(facts) and [row["subject"] for row in found] == [
    row["subject"] for row in facts
  ]
  assert sum(a["object"] == b["object"] for a, b in zip(facts, found)) < 20
  assert all(
    row.get("aliases", [f"alias {row['object'][1:]}"]) == [f"alias {row['object'][1:]}"]
    for row in found
  )
  assert splits.permuted_answers(facts, 1) == found != splits.permuted_answers(facts, 2)


def test_matched_sets_are_of_one_size_relation_and_popularity():
  random = np.random.default_rng(0)
  known = [fact(n, "a", float(random.lognormal(1)), relation="rq"[n % 2]) for n in range(30)]
  unknown = [fact(100 + n, "b", float(random.lognormal(0)), relation="r") for n in range(80)] + [
    fact(200, "b", relation="z")
  ]
  first, second = splits.matched(known, unknown)
  assert len(first) == len(second) == 15 and {row["relation"] for row in first + second} == {"r"}
  assert {row["object"] for row in first} == {"a"} and {row["object"] for row in second} == {"b"}
  gap = lambda rows: abs(
    np.mean([row["popularity"] for row in first]) - np.mean([row["popularity"] for row in rows])
  )
  assert gap(second) < gap(unknown)


BELIEF = [np.array([0.5, 0.2, 0.3]), np.array([0, 1.0, 0])]
ANSWERS = [[5, 1], [6, 7, 1], [6, 8, 1]]  # two begin alike


def soft_batch(prior=None, strength=1.0, decoder=False, pack=0, batch_size=50, step=0):
  if decoder:
    encode = lambda row, place: {
      "tokens": np.array([row + 1, 9, *ANSWERS[place]], np.int32),
      "weights": np.array([0, 0] + [1] * len(ANSWERS[place]), np.float32),
    }
  else:
    encode = lambda row, place: {
      "inputs": np.array([row + 1], np.int32),
      "targets": np.array(ANSWERS[place], np.int32),
    }
  source = soft_labels.soft_source(encode, BELIEF, prior, strength, pad=-1 if decoder else 0)
  return next(
    mixture.batches(
      [source],
      [1],
      batch_size=batch_size,
      input_length=8,
      target_length=4,
      seed=0,
      pack_to=pack,
    ).starting_at(step)
  )


def test_labels_are_drawn_by_their_probabilities_and_anew():
  seen = [collections.Counter(), collections.Counter()]
  for step in range(80):
    batch = soft_batch(step=step)
    for row, targets in zip(batch["inputs"][:, 0] - 1, batch["targets"].tolist()):
      seen[row][ANSWERS.index([token for token in targets if token])] += 1
    assert (batch["weights"] == (batch["targets"] != 0)).all()
  np.testing.assert_allclose(
    [seen[0][place] / seen[0].total() for place in range(3)], BELIEF[0], atol=0.04
  )
  assert set(seen[1]) == {1}


def brute_force_loss(logits, target, belief, prior, strength):
  """Expected over what may follow, token by token, by the definition."""
  loss = 0.0
  for place, token in enumerate(target):
    may = [a for a in range(3) if ANSWERS[a][:place] == target[:place]]
    mass = lambda weights, token: (
      sum(weights[a] for a in may if ANSWERS[a][place] == token) / sum(weights[a] for a in may)
    )
    tokens = {ANSWERS[a][place] for a in may}
    row = logits[place].copy()
    if prior is not None:
      for t in tokens:
        row[t] += strength * np.log(mass(prior, t) / mass([1, 1, 1], t))
    row = row - np.log(np.exp(row).sum())
    loss -= sum(mass(belief, t) * row[t] for t in tokens if mass(belief, t))
  return loss


@pytest.mark.parametrize(
  "prior, strength", [(None, 1.0), ([[0.2, 0.7, 0.1]] * 2, 1.0), ([[0.2, 0.7, 0.1]] * 2, 0.5)]
)
@pytest.mark.parametrize("decoder", [False, True])
def test_soft_and_adjusted_losses_are_those_of_the_definition(prior, strength, decoder):
  batch = soft_batch(prior, strength, decoder)
  targets, weights = (
    (batch["tokens"], batch["weights"]) if decoder else (batch["targets"], batch["weights"])
  )
  logits = np.random.default_rng(0).normal(size=(*targets.shape, 12)).astype(np.float32)
  soft = {name: array for name, array in batch.items() if name.startswith("answer_")}
  nll, _ = train_step.soft_losses(logits, targets, **soft)
  for row in range(len(targets)):
    number = (batch["tokens"] if decoder else batch["inputs"])[row, 0] - 1
    taught = np.flatnonzero(weights[row])
    expected = brute_force_loss(
      logits[row, taught].astype(np.float64),
      targets[row, taught].tolist(),
      BELIEF[number],
      prior and prior[number],
      strength,
    )
    np.testing.assert_allclose((nll[row] * weights[row]).sum(), expected, rtol=1e-5)


@pytest.mark.parametrize("decoder", [False, True])
def test_packed_soft_labels_teach_the_same(decoder):
  plain, packed = soft_batch(decoder=decoder), soft_batch(decoder=decoder, pack=1)
  assert len(packed["weights"]) < len(plain["weights"])
  of = lambda batch: sorted(
    map(
      tuple,
      np.concatenate([batch["answer_tokens"], batch["answer_shares"]], axis=2)[
        batch["weights"] > 0
      ].tolist(),
    )
  )
  assert of(plain) == of(packed)


def test_hard_labels_beside_soft_ones_have_their_own_loss():
  logits, targets = (
    np.random.default_rng(0).normal(size=(2, 3, 7)).astype(np.float32),
    np.array([[1, 2, 0], [3, 0, 0]]),
  )
  none = dict(
    answer_tokens=np.zeros((2, 3, 4), np.int32), answer_shares=np.zeros((2, 3, 4), np.float32)
  )
  np.testing.assert_allclose(
    train_step.soft_losses(logits, targets, **none)[0],
    train_step.token_losses(logits, targets)[0],
    rtol=1e-6,
  )


def test_naming_says_which_documents_name_somebody():
  search = entities.search_of(
    entities.entities_of([{"subject": "New York", "relation": "r", "object": "Ada"}])
  )
  assert entities.naming(["in New York", "New Yorker", "", "two\nlines, Ada.", "York"], search) == [
    True,
    False,
    False,
    True,
    False,
  ]


SENTENCES = ["s1 was born in a", "s2 saw b", "nobody is here", "s3 and s1", "s10 is another"]


@pytest.mark.parametrize("kind, expected", [("without_test", [1, 2, 4]), ("background", [2, 4])])
@pytest.mark.parametrize("named", [False, True])
def test_sentences_about_facts_are_left_out(tmp_path, kind, expected, named):
  data = StudyData([fact(n, "a") for n in (1, 2, 3)], [], {}, [SENTENCES], {})
  sets = {"test": [fact(1, "a")], "development": [fact(3, "a")]}
  text = SENTENCES
  if named:
    (tmp_path / "text.txt").write_text("\n".join(SENTENCES))
    text = str(tmp_path / "text.txt")
  found = pretraining_text._of_kind(text, kind, str(tmp_path / "kept.jsonl.gz"), data, sets, 0)
  if named:
    import gzip

    found = [json.loads(line)["text"] for line in gzip.open(found, "rt")]
  assert found == [SENTENCES[place] for place in expected]


def test_random_words_keep_lengths_and_words():
  found = pretraining_text._of_kind(SENTENCES, "random_words", "", None, None, 3)
  words = lambda rows: collections.Counter(word for row in rows for word in row.split())
  assert words(found) == words(SENTENCES) and [len(row.split()) for row in found] == [
    len(row.split()) for row in SENTENCES
  ]
  assert found != SENTENCES


@pytest.mark.parametrize(
  "change, expected",
  [
    (dict(prior_cloze=dict(prior="counts")), "prior='arm' and with_arm=ARM go together"),
    (
      dict(mixing_prior_counts=dict(at=0.3)),
      "config.arms.mixing_prior_counts.at: expected one of 0, 0.5, 1, got 0.3",
    ),
    (
      dict(prior_counts=dict(of="prior_uniform")),
      (
        "expected an arm of kind 'finetune' or 'weight_mixing' or 'output_mixing', got "
        "'prior_uniform'"
      ),
    ),
    (
      dict(self_distilled=dict(labels="gold")),
      "labels='soft' or 'best', or sure_share, and teacher=ARM go together",
    ),
    (
      dict(self_distilled=dict(teacher="finetune")),
      "teacher: expected an arm of kind 'prompted' or 'best_cloze' that ranks, got 'finetune'",
    ),
    (
      dict(run_average=dict(steps=(0, 30))),
      "config.arms.run_average.steps: 'kept' keeps steps 0, 2, 4, 6, 8, got 0, 30",
    ),
    (
      dict(run_average=dict(steps=(200,))),
      "config.arms.run_average: expected two models to average at least, got one",
    ),
    (dict(finetune=dict(gold_share=0.5)), "config.arms.finetune: gold_share goes with a teacher"),
    (
      dict(kept=dict(ema=0.9)),
      "config.arms.run_average.of_arms: 'kept' keeps a moving average for its own answers alone",
    ),
    (
      dict(finetune=dict(ema=0.9)),
      "config.arms.weight_mixing.of: 'finetune' keeps a moving average for its own answers alone",
    ),
    (
      dict(last_layer_only=dict(parts=("tail",))),
      "config.arms.last_layer_only.parts: expected a list of at least 1, each one of 'embedding'",
    ),
  ],
)
def test_arms_that_cannot_be(change, expected):
  config = tiny_remedies.get_config()
  with config.unlocked():
    for name, keys in change.items():
      config.arms[name].update(keys)
  with pytest.raises(UserError) as caught:
    checks.check(config)
  assert expected in str(caught.value)


def test_prior_correction_wants_all_candidates():
  config = tiny_remedies.get_config()
  config.answering.mode = "generate"
  with pytest.raises(UserError, match="prior_correction needs every candidate's score"):
    checks.check(config)


def test_only_what_a_prior_correction_reads_keeps_all_candidates():
  config = tiny_remedies.get_config()
  kept = lambda name: answers.kept_candidates(config, name)
  assert [kept("finetune"), kept("weight_mixing"), kept("zero_shot_cloze")] == [None] * 3
  assert kept("prior_counts") == kept("l2_sp") == config.answering.top == 10


def test_remedies_are_compared_with_plain_finetuning_on_the_same_facts():
  found = comparisons.remedies(configs_remedies.get_config())
  assert (
    found["prior_counts"]
    == found["run_average"]
    == found["l2_sp"]
    == found["finetune_early"]
    == "finetune"
  )
  assert (
    found["whole_mixing_prior_counts"]
    == found["whole_run_average"]
    == found["whole_early"]
    == "whole"
  )
  assert not {"finetune", "mixture_permuted", "kept", "second_order", "zero_shot_cloze"} & set(
    found
  )


@pytest.mark.parametrize("module", [configs_demo, configs_trex_remedies])
def test_what_the_headline_compares_is_compared_in_pairs(module):
  config = module.get_config()
  labels = [*config.arms, "finetune_early", "mixture_early"]
  pairs = comparisons.pairs(config, labels)
  zero_shot = config.roles.zero_shot
  first = min(config.finetune.eval_steps)
  steps = [f"finetune@{step}" for step in config.finetune.eval_steps]
  start = zero_shot if first else "finetune@0"
  assert {(step, start) for step in steps if step != start} <= set(pairs)
  assert {(steps[-1], step) for step in (start, *steps[:-1])} <= set(pairs)
  for remedy in ("finetune_early", "mixture_early", *config.roles.remedies):
    assert (remedy, "finetune") in pairs and (remedy, zero_shot) in pairs, remedy


def test_every_remedy_says_what_it_needs():
  config = configs_remedies.get_config()
  for name in comparisons.remedies(config):
    description = descriptions.describe(config, name)
    assert all(description[key] for key in ("needs", "cost", "use_when", "caption")), name
  mixed = descriptions.describe(config, "mixing_prior_counts")
  assert mixed["needs"] == (
    "the model before finetuning, development facts; "
    "unlabelled questions, and counts of answers in text"
  )
  assert mixed["cost"] == "forward passes to choose alpha"
  assert descriptions.describe(config, "mixture")["cost"] == "4 examples of text to a question"


def test_the_report_lists_remedies_best_first():
  effect = lambda mean: {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}
  arm = lambda mean: {"queries": 10, "right": effect(mean)}
  diagnosis = {
    "arms": {"finetune": arm(0.3), "mixed": arm(0.4), "held": arm(0.5)},
    "remedies": {"mixed": "finetune", "held": "finetune"},
    "comparisons": [
      {"arm": "mixed", "against": "finetune", "difference": effect(0.1), "seeds_same_sign": "2/2"},
      {"arm": "held", "against": "finetune", "difference": effect(0.2), "seeds_same_sign": "1/2"},
    ],
    "descriptions": {
      "mixed": {"needs": "the weights before", "cost": "little", "use_when": "often"}
    },
  }
  shown = remedies.table(diagnosis)
  assert (
    shown.index("Held") < shown.index("Mixed") and "+.200" in shown and "Finetune: .300" in shown
  )
  assert "the weights before" in shown
  assert remedies.table({**diagnosis, "comparisons": []}) is None


def test_remedies_of_a_diagnosis_without_descriptions_are_listed_without_them():
  effect = {"mean": 0.1, "low": 0.05, "high": 0.15}
  diagnosis = {
    "arms": {"finetune": {"right": effect}, "mixed": {"right": effect}},
    "remedies": {"mixed": "finetune"},
    "comparisons": [{"arm": "mixed", "against": "finetune", "difference": effect}],
  }
  shown = remedies.table(diagnosis)
  assert "Mixed" in shown and "always" not in shown and "development facts" not in shown


@pytest.mark.slow
def test_every_arm_runs_to_the_report(tmp_path):
  done = subprocess.run(
    [
      sys.executable,
      "-m",
      "factshock.experiment",
      "--config=tests/helpers/tiny_remedies.py",
      f"--workdir={tmp_path}/run",
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    env={
      **os.environ,
      "XLA_FLAGS": "",
      "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'helpers'}",
    },
  )
  assert done.returncode == 0, done.stderr + done.stdout
  found = json.loads((tmp_path / "run" / "diagnosis.json").read_text())
  assert set(tiny_remedies.KEEP) <= set(found["arms"])
  means = lambda label: found["arms"][label]["right"]["mean"]
  assert means("prior_counts@0") == means("finetune") and means("decreasing_mixing@0") == means(
    "zero_shot_question"
  )
  assert {"tau"} == set(found["selected"]["prior_cloze"]["0"]) - {"development"}


def test_reweighted_answers_weigh_as_the_text_names_them():
  facts = [fact(n, answer) for n, answer in enumerate("aaab")] + [fact(9, "z", relation="q")]
  found = splits.answer_weights(facts, {("r", "a"): 2, ("r", "b"): 5, ("q", "z"): 40})
  assert found.mean() == pytest.approx(1)
  assert found[:3].sum() / found[3] == pytest.approx(3 / 6)  # counts plus 1
  assert (found[:4].sum() / 4) / found[4] == pytest.approx(1)  # relations as before


def test_weights_of_facts_reach_the_batch():
  examples = [
    {
      "inputs": np.array([5, 1]),
      "targets": np.array([7, 8, 1]),
      "weights": np.float32(w) * np.ones(3, np.float32),
    }
    for w in (0.5, 2)
  ]
  batch = next(
    mixture.batches(
      [example_sources.qa_source(examples, loss_weight=2.0)],
      [1],
      batch_size=2,
      input_length=3,
      target_length=5,
      seed=0,
    )
  )
  assert sorted(batch["weights"].tolist()) == [[1, 1, 1, 0, 0], [4, 4, 4, 0, 0]]
