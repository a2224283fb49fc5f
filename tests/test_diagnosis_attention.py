"""Attention to the subject: reading files, means and paired differences against brute force,
intervals, and what a study makes of it.
"""

import json
import pathlib

import attention_files as hand
import numpy as np
import pytest
import tiny

from factshock.diagnosis import attention, attention_files
from factshock.diagnosis.statistics import Bootstrap
from factshock.predictions import reading
from factshock.predictions.points import Point
from factshock.runtime import files as runtime_files
from factshock.runtime.errors import UserError
from factshock.runtime.workdir import Workdir
from factshock.study import answers, diagnosis
from factshock.study import config as configs
from factshock.study.arms import registry


def answered(found, right):
  """Predictions of a file's facts, right where `right` says so."""
  rows = [
    {
      "subject": subject,
      "relation": relation,
      "object": gold,
      "prediction": gold if hit else "none",
      "popularity": popularity,
    }
    for subject, relation, gold, popularity, hit in zip(
      *(found[name].tolist() for name in ("subject", "relation", "object", "popularity")), right
    )
  ]
  return reading.from_rows(enumerate(rows, 1))


@pytest.fixture
def files():
  """label -> seed -> arrays of two arms and two seeds; facts 3 and 5 have no subject in the prompt
  of one arm each.
  """
  rng = np.random.default_rng(0)
  found = {"zero": {}, "tuned": {}}
  for seed in (1, 2):
    base = hand.arrays(rng, unknown=[3])
    tuned = hand.arrays(rng, unknown=[3, 5], mass=0.2)
    found["zero"][seed] = base
    found["tuned"][seed] = {
      **tuned,
      **{name: base[name] for name in ("subject", "relation", "object", "popularity")},
    }
  return found


def written(tmp_path, files):
  return {
    label: {
      seed: hand.write(tmp_path / f"{label}.{seed}.npz", found) for seed, found in by_seed.items()
    }
    for label, by_seed in files.items()
  }


def over_seeds(files, measure):
  """Mean over seeds of a function of the files of a seed, and its value in each seed."""
  values = {
    str(seed): measure({label: by_seed[seed] for label, by_seed in files.items()})
    for seed in (1, 2)
  }
  return np.mean(list(values.values())), values


def assert_estimate(estimate, expected):
  mean, by_seed = expected
  assert estimate["mean"] == pytest.approx(mean, abs=1e-6) and estimate["by_seed"] == pytest.approx(
    by_seed, abs=1e-6
  )
  assert estimate["low"] <= estimate["mean"] <= estimate["high"]


def test_means_are_those_of_brute_force(tmp_path, files):
  found = attention.diagnose(
    written(tmp_path, files), reference="zero", bootstrap=Bootstrap(resamples=200)
  )
  cross = found["arms"]["tuned"]["sites"]["cross"]
  tuned = lambda name: lambda here: np.nanmean(here["tuned"][f"cross/{name}"].mean((1, 2)))
  assert_estimate(cross["mass"], over_seeds(files, tuned("mass")))
  assert_estimate(
    cross["contribution"], over_seeds(files, lambda here: 8 * tuned("contribution")(here))
  )
  assert_estimate(
    cross["contribution_rest"], over_seeds(files, lambda here: 8 * tuned("contribution_rest")(here))
  )
  assert_estimate(cross["salience"], over_seeds(files, lambda here: 2 * tuned("salience")(here)))
  assert_estimate(
    cross["share_of_uniform"],
    over_seeds(
      files,
      lambda here: np.nanmean(
        here["tuned"]["cross/mass"].mean((1, 2))
        * here["tuned"]["tokens"]
        / here["tuned"]["subject_tokens"]
      ),
    ),
  )
  for name in ("mass", "contribution", "salience"):
    expected = np.mean(
      [np.nanmean(files["tuned"][seed][f"cross/{name}"], axis=0) for seed in (1, 2)], axis=0
    )
    np.testing.assert_allclose(cross["by_head"][name], expected, rtol=1e-3)
  assert (cross["facts"], cross["left_out"]) == (76, 4)
  encoder = found["arms"]["tuned"]["sites"]["encoder"]
  assert (
    np.shape(encoder["by_head"]["mass"]) == (3, 2)
    and not {"contribution", "salience"} & encoder.keys()
  )
  assert "change" not in found["arms"]["zero"]["sites"]["cross"]
  json.dumps(found, allow_nan=False)


def test_changes_are_paired_differences_on_the_facts_of_both(tmp_path, files):
  found = attention.diagnose(
    written(tmp_path, files), reference="zero", bootstrap=Bootstrap(resamples=200)
  )
  change = found["arms"]["tuned"]["sites"]["cross"]["change"]
  difference = lambda name, scale: (
    lambda here: (
      scale
      * np.nanmean(
        here["tuned"][f"cross/{name}"].mean((1, 2)) - here["zero"][f"cross/{name}"].mean((1, 2))
      )
    )
  )
  assert_estimate(change["mass"], over_seeds(files, difference("mass", 1)))
  assert_estimate(change["contribution"], over_seeds(files, difference("contribution", 8)))
  assert_estimate(change["salience"], over_seeds(files, difference("salience", 2)))
  tables = {
    str(seed): np.nanmean(
      files["tuned"][seed]["cross/mass"] - files["zero"][seed]["cross/mass"], axis=0
    )
    for seed in (1, 2)
  }
  np.testing.assert_allclose(
    change["by_head"]["mean"], np.mean(list(tables.values()), axis=0), atol=1e-4
  )
  for seed, table in tables.items():
    np.testing.assert_allclose(change["by_head"]["by_seed"][seed], table, atol=1e-4)


def test_quarters_of_popularity(tmp_path, files):
  found = attention.diagnose(
    written(tmp_path, files), reference="zero", bootstrap=Bootstrap(resamples=200)
  )["arms"]["tuned"]["sites"]["cross"]

  def quarter(i, against=None):
    def measure(here):
      popularity, mass = here["zero"]["popularity"], here["tuned"]["cross/mass"].mean((1, 2))
      mass = mass if against is None else mass - here[against]["cross/mass"].mean((1, 2))
      return np.nanmean(mass[(10 * i <= popularity) & (popularity < 10 * i + 10)])

    return measure

  for i in range(4):
    row, change = found["by_popularity"][i], found["change"]["by_popularity"][i]
    assert (row["low"], row["high"]) == (change["low"], change["high"]) == (10 * i, 10 * i + 9)
    assert_estimate(row["mass"], over_seeds(files, quarter(i)))
    assert_estimate(change["mass"], over_seeds(files, quarter(i, "zero")))


def test_without_popularity_there_are_no_quarters(tmp_path):
  found = hand.arrays(np.random.default_rng(0)) | {"popularity": np.full(40, np.nan)}
  paths = {"zero": {0: hand.write(tmp_path / "a.npz", found)}}
  assert (
    "by_popularity"
    not in attention.diagnose(paths, bootstrap=Bootstrap(resamples=50))["arms"]["zero"]["sites"][
      "cross"
    ]
  )


def test_facts_in_another_order_are_matched(tmp_path, files):
  rng = np.random.default_rng(3)
  other = {
    label: {seed: hand.reordered(found, rng.permutation(40)) for seed, found in by_seed.items()}
    for label, by_seed in files.items()
  }
  options = dict(
    reference="zero",
    bootstrap=Bootstrap(resamples=50),
    predictions={
      "zero": {
        seed: answered(found, np.arange(40) % 3 > 0) for seed, found in files["zero"].items()
      }
    },
  )
  straight, shuffled = (
    attention.diagnose(written(tmp_path / name, some), **options)
    for name, some in (("a", files), ("b", other))
  )
  assert json.dumps(straight) == json.dumps(shuffled)


def test_other_facts_are_refused(tmp_path, files):
  files["tuned"][2] = {**files["tuned"][2], "subject": np.array([f"t{i}" for i in range(40)])}
  with pytest.raises(UserError, match="tuned.2.npz: expected the same queries .* 40 of its 40"):
    attention.diagnose(written(tmp_path, files), reference="zero")


def test_right_and_wrong_answers_are_told_apart(tmp_path, files):
  rng = np.random.default_rng(4)
  right = {label: {seed: rng.random(40) < 0.6 for seed in (1, 2)} for label in files}
  said = {
    label: {seed: answered(files[label][seed], right[label][seed]) for seed in (1, 2)}
    for label in files
  }
  found = attention.diagnose(
    written(tmp_path, files), reference="zero", predictions=said, bootstrap=Bootstrap(resamples=200)
  )
  cross = found["arms"]["tuned"]["sites"]["cross"]
  expected = {"right": {}, "wrong": {}, "lost": {}, "kept": {}}
  for seed in (1, 2):
    before, after = right["zero"][seed], right["tuned"][seed]
    mass = files["tuned"][seed]["cross/mass"].mean((1, 2))
    fall = mass - files["zero"][seed]["cross/mass"].mean((1, 2))
    for name, column, group in (
      ("right", mass, after),
      ("wrong", mass, ~after),
      ("lost", fall, before & ~after),
      ("kept", fall, before & after),
    ):
      expected[name][str(seed)] = np.nanmean(column[group])
  for name in ("right", "wrong"):
    assert cross[name]["by_seed"] == pytest.approx(expected[name], abs=1e-6)
  for name in ("lost", "kept"):
    assert cross["change"][name]["by_seed"] == pytest.approx(expected[name], abs=1e-6)
  assert cross["change"]["lost_minus_kept"]["by_seed"] == pytest.approx(
    {seed: expected["lost"][seed] - expected["kept"][seed] for seed in ("1", "2")}, abs=1e-6
  )


def test_pairs_are_compared_besides(tmp_path, files):
  files["mixed"] = {2: hand.moved(files["tuned"][2], 0.1)}
  found = attention.diagnose(
    written(tmp_path, files),
    reference="zero",
    pairs=[("mixed", "tuned")],
    bootstrap=Bootstrap(resamples=100),
  )
  (row,) = [row for row in found["comparisons"] if row["site"] == "cross"]
  expected = np.nanmean(files["mixed"][2]["cross/mass"] - files["tuned"][2]["cross/mass"])
  assert (row["arm"], row["against"], row["seeds_same_sign"]) == ("mixed", "tuned", "1/1")
  assert row["mass"]["mean"] == pytest.approx(expected, abs=1e-6) and list(
    row["mass"]["by_seed"]
  ) == ["2"]
  assert len(row["by_popularity"]) == 4 and row["salience"]["mean"] == 0


def test_without_a_reference_only_pairs_are_compared(tmp_path, files):
  found = attention.diagnose(
    written(tmp_path, files), pairs=[("tuned", "zero")], bootstrap=Bootstrap(resamples=50)
  )
  assert found["reference"] is None and len(found["comparisons"]) == 2
  assert all(
    "change" not in site for arm in found["arms"].values() for site in arm["sites"].values()
  )


@pytest.mark.parametrize("table_entries", [None, 0])
def test_intervals_cover(tmp_path, monkeypatch, table_entries):
  """Facts whose change of attention is normal around -.02: 95% intervals of the mean hold -.02
  about 95 times of 100.
  """
  if table_entries is not None:
    monkeypatch.setattr(attention.statistics, "TABLE_ENTRIES", table_entries)
  rng, held, shapes = np.random.default_rng(7), [], {"self": (1, 1)}
  for trial in range(120):
    base = hand.arrays(rng, facts=80, sites=("self",), shapes=shapes, mass=0.5) | {
      "self/mass": np.full((80, 1, 1), 0.5, np.float32)
    }
    change = rng.normal(-0.02, 0.05, (80, 1, 1))
    files = {"zero": base, "tuned": hand.moved(base, change, "self")}
    paths = {
      label: {0: hand.write(tmp_path / f"{label}.npz", found)} for label, found in files.items()
    }
    found = attention.diagnose(
      paths, reference="zero", bootstrap=Bootstrap(resamples=200, seed=trial)
    )["arms"]["tuned"]["sites"]["self"]["change"]["mass"]
    held.append(found["low"] <= -0.02 <= found["high"])
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * 0.05 / np.sqrt(80), rel=0.5)
  assert (
    0.87 <= np.mean(held) <= 0.99
    # 93.5% for percentiles of 200 resamples of 80 facts, give or take three standard errors of 120
    # trials
  )


def test_each_file_is_read_once(tmp_path, files, monkeypatch):
  paths = written(tmp_path, files)
  paths["tuned@8"], read = paths["tuned"], []
  monkeypatch.setattr(
    attention_files,
    "read",
    lambda path, read_=attention_files.read: read.append(path) or read_(path),
  )
  found = attention.diagnose(paths, reference="zero", bootstrap=Bootstrap(resamples=50))["arms"]
  assert sorted(read) == sorted(
    path for label in ("zero", "tuned") for path in paths[label].values()
  )
  assert (
    found["tuned@8"]["sites"]["cross"]["mass"]["by_seed"]
    == found["tuned"]["sites"]["cross"]["mass"]["by_seed"]
  )


def change_to(**changes):
  return lambda found: {
    name: array for name, array in {**found, **changes}.items() if array is not None
  }


def with_nan(found):
  found = {**found, "cross/mass": found["cross/mass"].copy()}
  found["cross/mass"][4, 0, 1] = np.nan
  return found


@pytest.mark.parametrize(
  "change, message",
  [
    (change_to(tokens=None), "expected an array 'tokens', got only subject, relation"),
    (
      change_to(relation=np.array(["r"])),
      r"relation: expected texts of shape \[40\], got <U1 of shape \[1\]",
    ),
    (change_to(tokens=np.ones(40)), r"tokens: expected whole numbers of shape \[40\], got float64"),
    (change_to(tokens=np.zeros(40, int)), "expected 0 <= subject_tokens <= tokens and tokens > 0"),
    (
      change_to(sites=np.array(["decoder"])),
      "sites: expected some of encoder, cross, self, got decoder",
    ),
    (
      change_to(**{"cross/mass": np.zeros((40, 2), np.float32)}),
      r"cross/mass: expected numbers of shape \[40, any, any\], got float32 of shape",
    ),
    (
      change_to(**{"cross/salience": np.zeros((40, 4, 2), np.float32)}),
      r"cross/salience: expected numbers of shape \[40, 2, 4\]",
    ),
    (
      change_to(**{"cross/mass": np.full((40, 2, 4), 1.5)}),
      "cross/mass: expected shares from 0 to 1, got 1.5 to 1.5",
    ),
    (change_to(subject=np.array(["a", {}], object)), "none of them pickled"),
    (with_nan, "cross/mass: expected finite .* fact 4 has others"),
    (lambda found: hand.reordered(found, []), "subject: expected at least one fact"),
  ],
)
def test_bad_files_are_refused(tmp_path, change, message):
  path = hand.write(tmp_path / "a.npz", change(hand.arrays(np.random.default_rng(0))))
  with pytest.raises(UserError, match=message) as caught:
    attention_files.read(path)
  assert str(caught.value).startswith(path)


def test_files_that_are_none_are_refused(tmp_path):
  (tmp_path / "text.npz").write_text("no array")
  np.save(tmp_path / "one.npy", np.zeros(3))
  whole = hand.write(tmp_path / "whole.npz", hand.arrays(np.random.default_rng(0)))
  (tmp_path / "half.npz").write_bytes(open(whole, "rb").read()[:5000])
  for name in ("text.npz", "one.npy", "half.npz"):
    with pytest.raises(UserError, match=f"{name}: expected an .npz file"):
      attention_files.read(tmp_path / name)
  with pytest.raises(UserError, match="none.npz: cannot be read"):
    attention_files.read(tmp_path / "none.npz")


@pytest.mark.parametrize(
  "options, message",
  [
    ({"reference": "x"}, "reference: expected the label of an arm, one of zero, tuned; got 'x'"),
    ({"pairs": [("tuned", "x")]}, "pairs: expected the label"),
  ],
)
def test_wrong_labels_are_named(tmp_path, files, options, message):
  with pytest.raises(UserError, match=message):
    attention.diagnose(written(tmp_path, files), **options)


def test_pairs_without_a_common_seed_and_other_models_are_refused(tmp_path, files):
  del files["zero"][1], files["tuned"][2]
  with pytest.raises(UserError, match="expected a seed that both have"):
    attention.diagnose(written(tmp_path, files), pairs=[("tuned", "zero")])
  files["tuned"] = {
    2: hand.arrays(np.random.default_rng(0), shapes={"encoder": (3, 2), "cross": (5, 5)})
  }
  with pytest.raises(
    UserError,
    match="tuned.2.npz: expected the sites, layers and heads .* cross 2 x 4, got .* cross 5 x 5",
  ):
    attention.diagnose(written(tmp_path, files), reference="zero")


@pytest.fixture
def workdir(tmp_path):
  """A config of two arms with attention and one without, and a workdir with their answers and
  attention, by hand.
  """
  config, rng = tiny.get_config(), np.random.default_rng(0)
  with config.unlocked():
    config.seeds = 1
    for name in set(config.arms) - {"zero_shot_question", "finetune", "weight_mixing", "k_shot"}:
      del config.arms[name]
    config.roles.update(dict(ceiling="", remedies=("weight_mixing",)))
    for name in ("zero_shot_question", "finetune", "weight_mixing"):
      config.arms[name]["attention"] = True
  found = hand.arrays(rng)
  facts = [
    {name: found[name].tolist()[i] for name in ("subject", "relation", "object", "popularity")}
    for i in range(40)
  ]
  (seed,) = configs.seeds(config)
  folder = tmp_path / "facts" / str(seed)
  folder.mkdir(parents=True)
  for name in ("test", "balanced"):
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in facts))
  (folder / "counts.tsv").write_text(
    "entity\tcount\trelation\n" + "".join(f"o{i}\t{i + 1}\t{r}\n" for i in range(7) for r in "rq")
  )
  (folder / "relations.jsonl").write_text(
    "".join(
      json.dumps(
        {
          "relation": name,
          "label": name,
          "statements": ["[X] is [Y] ."],
          "questions": ["What is [X] ?"],
          "type": "N-1",
        }
      )
      + "\n"
      for name in "rq"
    )
  )
  for label in [point.label for name in config.arms for point in registry.points(config, name)]:
    mass = {"zero_shot_question": 0, "finetune@8": -0.1, "finetune@4": -0.05}.get(label, -0.02)
    if label != "k_shot":
      hand.write(
        pathlib.Path(Workdir(str(tmp_path)).attention(label, seed)), hand.moved(found, mass)
      )
    for split in answers.SPLITS:
      rows = [
        {
          **fact,
          "prediction": fact["object"]
          if label in ("finetune@4", "weight_mixing@0.5") or i % 2
          else "o0",
          "score": -1.0,
          "arm": Point.parse(label).arm,
          "seed": seed,
        }
        for i, fact in enumerate(facts)
      ]
      path = Workdir(str(tmp_path)).predictions(label, seed, split)
      pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
      with runtime_files.atomic_write(path) as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
  return config, tmp_path


def test_a_study_diagnoses_the_attention_it_finds(workdir):
  config, folder = workdir
  found = diagnosis.diagnose(config, Workdir(str(folder)), {})["attention"]
  assert set(found["arms"]) == {
    "zero_shot_question",
    "finetune",
    "finetune_early",
    "finetune@0",
    "finetune@4",
    "finetune@8",
    "weight_mixing",
    "weight_mixing@0",
    "weight_mixing@0.5",
    "weight_mixing@1",
  }
  change = {
    label: arm["sites"]["cross"]["change"]["mass"]["mean"]
    for label, arm in found["arms"].items()
    if label != "zero_shot_question"
  }
  assert (
    change["finetune"]
    == change["finetune@8"]
    < change["finetune_early"]
    == change["finetune@4"]
    < change["weight_mixing"]
    < 0
  )
  assert {(row["arm"], row["against"]) for row in found["comparisons"]} == {
    ("weight_mixing", "finetune"),
    ("weight_mixing", "finetune_early"),
    ("finetune_early", "finetune"),
  }
  assert (
    found["reference"] == "zero_shot_question"
    and "lost" in found["arms"]["finetune"]["sites"]["cross"]["change"]
  )
  assert json.loads((folder / "diagnosis.json").read_text())["attention"] == json.loads(
    json.dumps(found)
  )


def test_a_study_without_attention_has_none_and_says_what_is_missing(workdir, capsys):
  config, folder = workdir
  for path in (folder / "attention").glob("zero_shot*"):
    path.unlink()
  found = diagnosis.diagnose(config, Workdir(str(folder)), {})["attention"]
  assert found["reference"] is None and "zero_shot_question" in capsys.readouterr().out
  with config.unlocked():
    for arm in config.arms.values():
      arm["attention"] = False
  assert "attention" not in diagnosis.diagnose(config, Workdir(str(folder)), {})
