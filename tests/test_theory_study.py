"""The study of the one-layer theory: worlds, measures, predictions, where harm begins, and the verb
from config to page.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from factshock.configs import one_layer as one_layer_config
from factshock.report import theory_page
from factshock.runtime.errors import UserError
from factshock.study import theory as pipeline
from factshock.theory import (
  conditions,
  estimates,
  hypotheses,
  one_layer,
  phases,
  training,
  variants,
  worlds,
)

ROOT = pathlib.Path(__file__).parents[1]
SIZES = worlds.Sizes(
  subjects=60, relations=3, answers=5, zipf=1.0, answer_zipf=1.0, sentences=6000, test=0.5
)
SETTINGS = conditions.Settings(cosine=0.0, question=1.0, bins=10, learning_rate=1.0, steps=(5, 20))


@pytest.fixture(scope="module")
def world():
  return worlds.make(SIZES, [0, 1, 2])


@pytest.fixture(scope="module")
def stored(world):
  return phases.at(phases.pretrained(world, SIZES, (50,), 50.0, 0.0), 0)


@pytest.fixture(scope="module")
def condition(world, stored):
  return conditions.run(world, stored, SETTINGS)


def tiny(**changed):
  config = one_layer_config.get_config()
  config.seeds = 2
  config.world.update(dataclasses.asdict(SIZES))
  config.pretrain.update(dict(steps=50, learning_rate=50.0))
  config.finetune.steps = (5, 20)
  config.phases.update(dict(zipf=(0.5, 1.0), sizes=(5,), steps=(5, 20)))
  config.stored = (10, 50)
  config.variants.world.update(dict(subjects=24, relations=2, answers=3, sentences=500))
  config.variants.pretrain.steps = config.variants.finetune.steps = 10
  config.variants.names = ("all_weights",)
  config.update_from_flattened_dict(changed)
  return config


def test_a_world_states_every_fact_and_as_many_sentences_as_asked(world):
  assert (world.counts_KxSxR >= 1).all()
  np.testing.assert_array_equal(world.counts_KxSxR.sum(axis=(1, 2)), SIZES.sentences)
  of_relation = world.answers_KxSxR // SIZES.answers
  np.testing.assert_array_equal(of_relation, np.broadcast_to(np.arange(3), of_relation.shape))


def test_sets_keep_away_from_the_subjects_asked_about_and_are_what_they_are_called(world):
  for seed in range(3):
    named = world.counts_KxSxR[seed].sum(axis=1)
    test, whole, popular, unpopular = (
      world.test_KxT[seed],
      *(world.sets[name][seed] for name in ("whole", "popular", "unpopular")),
    )
    assert sorted([*test, *whole]) == list(range(60)), "test and pool part the subjects"
    assert sorted([*popular, *unpopular]) == sorted(whole)
    assert named[popular].min() >= named[unpopular].max()
    assert (np.diff(named[test]) <= 0).all(), "most popular first"
    assert set(world.sets["random"][seed]) <= set(whole) and len(world.sets["random"][seed]) == len(
      popular
    )


def test_smaller_sets_are_drawn_from_their_halves_and_nothing_else_changes(world):
  some = worlds.make(SIZES, [0, 1, 2], 4)
  for name in ("popular", "unpopular"):
    assert some.sets[name].shape == (3, 4)
    assert all(set(few) <= set(half) for few, half in zip(some.sets[name], world.sets[name]))
  np.testing.assert_array_equal(some.answers_KxSxR, world.answers_KxSxR)
  np.testing.assert_array_equal(some.test_KxT, world.test_KxT)


def test_zipf_frequencies():
  np.testing.assert_allclose(
    worlds.frequencies(4, 1.0), np.array([1, 1 / 2, 1 / 3, 1 / 4]) / (25 / 12)
  )
  np.testing.assert_allclose(worlds.frequencies(3, 0.0), 1 / 3)


def test_salience_sets_hold_the_fifths_of_the_pool_s_facts(world, condition):
  salience = condition.before["salience"]
  sets = conditions.salience_sets(world, salience)
  for seed in range(3):
    pool = world.sets["whole"][seed]
    for relation in range(3):
      of_pool = salience[seed, pool, relation]
      low = of_pool[sets["low_salience"].weights_KxFxR[seed, :, relation] > 0]
      high = of_pool[sets["high_salience"].weights_KxFxR[seed, :, relation] > 0]
      np.testing.assert_allclose(np.sort(low), np.sort(of_pool)[:6])
      np.testing.assert_allclose(np.sort(high), np.sort(of_pool)[-6:])
  for facts in (*sets.values(), *conditions.facts_of(world).values()):
    np.testing.assert_allclose(facts.weights_KxFxR.sum(axis=(1, 2)), 1, rtol=1e-5)


def test_measures_are_those_of_a_loop_over_queries(world, stored, condition):
  """Accuracy, its tenths, the share of the most common answer and attention after finetuning on the
  unpopular half.
  """
  w_kq, seed = condition.w_kq["unpopular"], 1
  v_SxA, v_RxA = stored["subject"][seed], stored["relation"][seed]
  right, common = [], []
  for subject in world.test_KxT[seed]:
    for relation in range(3):
      attention = 1 / (1 + np.exp(w_kq["relation"][seed, relation]))
      said = np.argmax(attention * v_SxA[subject] + (1 - attention) * v_RxA[relation])
      answers = world.answers_KxSxR[seed, :, relation]
      counted = np.bincount(answers, weights=world.counts_KxSxR[seed, :, relation], minlength=15)
      right.append(said == answers[subject])
      common.append(said == counted.argmax())
      assert condition.after["unpopular"]["attention"][seed, -1, relation] == pytest.approx(
        attention, rel=1e-5
      )
  after = condition.after["unpopular"]
  assert after["accuracy"][seed, -1] == pytest.approx(np.mean(right))
  assert after["common"][seed, -1] == pytest.approx(np.mean(common))
  np.testing.assert_allclose(
    after["accuracy_by_bin"][seed, -1], np.reshape(right, (10, -1)).mean(axis=1), rtol=1e-5
  )


def test_attention_of_facts_is_that_of_their_own_subject_where_it_was_finetuned_on(
  world, condition
):
  found = conditions.attention_of_facts(condition, "popular", 0.0)
  test_KxTxR = np.take_along_axis(found, world.test_KxT[..., None], axis=1)
  expected = np.broadcast_to(condition.after["popular"]["attention"][:, -1, None], test_KxTxR.shape)
  np.testing.assert_allclose(test_KxTxR, expected, rtol=1e-5)
  popular = np.take_along_axis(found, world.sets["popular"][..., None], axis=1)
  np.testing.assert_allclose(
    conditions.attention_of_own(condition, "popular", 0.0), popular.mean(axis=(1, 2)), rtol=1e-5
  )
  assert np.ptp(popular, axis=1).max() > 1e-5, "these differ from subject to subject"


def test_the_update_is_what_a_small_step_of_finetuning_on_one_fact_does(world, stored, condition):
  """The sign of `update` of a fact is that of the change of attention to its subject by a step on
  it alone.
  """
  for subject, relation in ((0, 0), (30, 1), (59, 2)):
    weights = np.zeros((1, 1, 3), np.float32)
    weights[0, 0, relation] = 1
    w_kq, _ = training.finetune(
      stored["subject"][:1, [subject]],
      stored["relation"][:1],
      world.answers_KxSxR[:1, [subject]],
      weights,
      ends=(1,),
      learning_rate=1e-2,
    )
    moved = (
      one_layer.attention({name: array[0, 0] for name, array in w_kq.items()})[0, relation] - 0.5
    )
    # The subject's logit and the relation's move by the update and against it; a' = 1/4 at 1/2.
    assert float(moved) == pytest.approx(
      1e-2 * 2 * condition.before["update"][0, subject, relation] / 4, rel=0.02, abs=1e-6
    )


def test_a_question_token_weakens_what_the_relation_says(world, stored):
  _, plain = conditions.values_of(stored, SETTINGS)
  _, question = conditions.values_of(stored, dataclasses.replace(SETTINGS, question=0.6))
  np.testing.assert_allclose(question, 0.6 * np.asarray(plain), rtol=1e-6)


def test_estimates_are_student_s():
  values = np.array([0.3, 0.5, 0.1, 0.7])
  found = estimates.estimate(values)
  low, high = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
  assert (found["mean"], found["low"], found["high"]) == pytest.approx((values.mean(), low, high))
  assert estimates.estimate([2.0])["low"] is None
  assert (
    estimates.estimate([1.0, np.nan, 3.0])["mean"] == 2
    and estimates.estimate([np.nan])["mean"] is None
  )
  with pytest.raises(FloatingPointError):
    estimates.estimate([1.0, np.inf])


def test_a_prediction_holds_only_where_whole_intervals_do(condition):
  """What holds on a condition fails on the same with its sets and saliences exchanged, where that
  turns an estimate's sign round.
  """

  def turned(of):
    after = {
      **of.after,
      "popular": of.after["unpopular"],
      "unpopular": of.after["popular"],
      "low_salience": of.after["high_salience"],
      "high_salience": of.after["low_salience"],
    }
    before = {**of.before, "salience": -of.before["salience"]}
    return dataclasses.replace(of, after=after, before=before)

  exchanged = 0
  for claim, opposite in zip(
    hypotheses.judge(condition, condition), hypotheses.judge(turned(condition), turned(condition))
  ):
    for row, other in zip(claim["estimates"], opposite["estimates"]):
      end = row["low"] if row["wanted"] == "above" else row["high"]
      assert row["holds"] == (end > 0 if row["wanted"] == "above" else end < 0)
      if other["mean"] == pytest.approx(-row["mean"]):
        exchanged += 1
        assert not (row["holds"] and other["holds"]), row["what"]
    held = [row["holds"] for row in claim["estimates"]]
    assert claim["verdict"] == ("holds" if all(held) else "holds in part" if any(held) else "fails")
  assert exchanged >= 6


def test_auroc_and_tenths_are_those_of_brute_force():
  rng = np.random.default_rng(0)
  score, positive = rng.integers(0, 5, 30).astype(float), rng.random(30) < 0.4
  pairs = [
    (1.0 if a > b else 0.5 if a == b else 0.0) for a in score[positive] for b in score[~positive]
  ]
  assert hypotheses._auroc(score, positive) == pytest.approx(np.mean(pairs))
  assert np.isnan(hypotheses._auroc(score, np.zeros(30, bool)))


def test_tenths_by_popularity_begin_with_the_least_popular(condition):
  counts = hypotheses.by_popularity(condition, condition.world.counts_KxSxR)
  assert (np.diff(counts, axis=1) >= 0).all()
  named = np.sort(condition.world.counts_KxSxR[0].sum(axis=1))
  assert counts[0, 0] == pytest.approx(named[:6].mean() / 3)


@pytest.mark.parametrize(
  "lows, step",
  [((1, 1, 1), 10), ((-1, 1, 1), 20), ((1, -1, 1), 40), ((1, 1, -1), None), ((None,) * 3, None)],
)
def test_harm_begins_with_the_first_step_from_which_on_the_interval_lies_above_0(lows, step):
  assert phases.begins([{"low": low} for low in lows], (10, 20, 40)) == step


def test_uniform_subjects_have_no_popular_half_worth_the_name():
  """The control of the diagram: with exponent 0 the halves differ by the noise of the corpus
  alone.
  """
  cells = phases.diagram(
    dataclasses.replace(SIZES, sentences=60_000),
    list(range(6)),
    phases.Descent(steps=50, learning_rate=50.0),
    dataclasses.replace(SETTINGS, steps=(20,)),
    zipf_exponents=(0.0,),
    set_sizes=(10,),
  )
  assert abs(cells[0]["gap"][0]["mean"]) < 0.05


def test_variants_with_one_layer_and_head_agree_with_the_exact_model():
  """The same seeds through W_V and W_KQ as matrices: the change of attention is the same as in the
  basis of the tokens.
  """
  sizes, seeds = dataclasses.replace(SIZES, subjects=30, sentences=3000), [0, 1]
  row = variants.run(
    variants.VARIANTS["one_layer"],
    sizes,
    seeds,
    variants.Pretraining(steps=30, learning_rate=20.0, known=1.1),
    phases.Descent(steps=20, learning_rate=1.0),
  )
  world = worlds.make(sizes, seeds)
  w_v = phases.at(phases.pretrained(world, sizes, (30,), 20.0, 0.0), 0)
  exact = conditions.run(
    world, w_v, dataclasses.replace(SETTINGS, steps=(20,)), sets=("popular", "unpopular")
  )
  np.testing.assert_allclose(row["gap"]["values"], hypotheses.gap(exact, "accuracy"), atol=0.03)
  for name in ("popular", "unpopular"):
    change = exact.after[name]["attention"][:, -1].mean(axis=1) - 0.5
    np.testing.assert_allclose(row["attention"][name]["values"], change, atol=2e-3)


@pytest.mark.parametrize(
  "changed, words",
  [
    ({"world.subjects": 1}, "config.world.subjects: expected a whole number of at least 2"),
    ({"world.relations": 1}, "config.world.relations: expected a whole number of at least 2"),
    ({"world.answers": 1}, "config.world.answers: expected a whole number of at least 2"),
    ({"world.test": 0.99}, "at least 10 subjects left to finetune on, a tenth each, got 1"),
    ({"world.test": 0.01}, "at least 10 subjects asked about, a tenth each, got 1"),
    ({"world.zipf": -1.0}, "config.world.zipf: expected an exponent from 0 to 5, got -1.0"),
    (
      {"phases.zipf": (1.0, 9.0)},
      "config.phases.zipf: expected a list of at least 0, each an exponent from 0 to 5",
    ),
    ({"phases.sizes": (5, 500)}, "config.phases.sizes: expected at most 15 subjects"),
    (
      {"world.sentences": 100},
      "config.world.sentences: expected at least one for each of 180 facts, got 100",
    ),
    ({"finetune.steps": (20, 5)}, "config.finetune.steps: expected rising whole numbers from 1"),
    ({"variants.names": ("one_layer", "fifty_layers")}, "config.variants.names"),
    ({"cosine": 1.0}, "config.cosine: expected a cosine from 0 to below 1"),
    ({"question": 0.0}, "config.question"),
    ({"seeds": 0}, "config.seeds"),
  ],
)
def test_what_makes_a_prediction_empty_is_refused(changed, words, tmp_path):
  with pytest.raises(UserError) as error:
    pipeline.run(tiny(**changed), str(tmp_path / "w"))
  assert words in str(error.value)
  assert not (tmp_path / "w").exists()


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_a_loss_that_is_not_finite_is_said(tmp_path):
  with pytest.raises(
    UserError,
    match="pretraining: the loss of step .* is not finite; choose a learning_rate below 1e",
  ):
    pipeline.run(tiny(**{"pretrain.learning_rate": 1e39}), str(tmp_path / "w"))
  assert not (tmp_path / "w" / "theory.json").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp("theory")
  (folder / "tiny_theory.py").write_text(
    f"import sys\nsys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\nfrom "
    f"test_theory_study import tiny\nget_config = tiny\n"
  )
  done = subprocess.run(
    [sys.executable, "-m", "factshock.experiment", f"--config={folder}/tiny_theory.py"],
    cwd=folder,
    capture_output=True,
    text=True,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return folder / "runs" / "tiny_theory", done


def test_the_verb_writes_numbers_facts_and_page_and_says_where(finished):
  workdir, done = finished
  assert "report: runs/tiny_theory/report.html" in done.stdout and "Warning" not in done.stderr
  found = json.loads((workdir / "theory.json").read_text())
  assert [len(claim["estimates"]) for claim in found["claims"]] == [2, 3, 6, 4, 10]
  assert (
    len(found["conditions"]) == 4
    and len(found["phases"]) == 2
    and len(found["stored"]) == 2
    and len(found["variants"]) == 1
  )
  for claim in found["claims"]:
    assert claim["statement"] in done.stdout
  page = (workdir / "report.html").read_text()
  assert "The theory&#x27;s predictions" in page or "The theory's predictions" in page
  assert page.count("data:image/svg+xml;base64,") == len(list((workdir / "figures").iterdir()))
  with np.load(workdir / "facts.npz") as facts:
    assert facts["salience"].shape == facts["attention/unpopular"].shape == (2, 60, 3)


def test_a_workdir_of_another_study_is_left_alone(finished):
  workdir, _ = finished
  before = (workdir / "theory.json").read_bytes()
  with pytest.raises(UserError, match="another study"):
    pipeline.run(tiny(**{"world.zipf": 2.0}), str(workdir))
  assert (workdir / "theory.json").read_bytes() == before


def test_the_page_escapes_names_and_leaves_out_what_was_not_run(finished, tmp_path):
  found = json.loads((finished[0] / "theory.json").read_text())
  found["name"] = "<script>alert(1)</script>"
  for key in ("phases", "stored", "variants"):
    found.pop(key)
  page = pathlib.Path(theory_page.write_report(found, str(tmp_path))).read_text()
  assert (
    "<script>alert" not in page
    and "Where the harm begins" not in page
    and "What the theory leaves out" not in page
  )
  with pytest.raises(UserError, match="theory.json"):
    theory_page.write_report({}, str(tmp_path))
