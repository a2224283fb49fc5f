"""Tables of a diagnosis: the numbers of diagnosis.json, in columns that have names."""

import pandas as pd
import pytest
import test_diagnosis_summary as hand

from factshock.diagnosis import frames, summary


@pytest.fixture(scope="module")
def diagnosis():
  options = summary.Options(
    finetuning=hand.FINETUNING, counts=hand.COUNTS, known="zero", entity_arms=["zero", "tuned"]
  )
  return summary.diagnose(hand.two_arms(), options, summary.Bootstrap(resamples=100))


def test_a_row_an_arm_with_each_measure_and_its_interval(diagnosis):
  arms = frames.arms(diagnosis)
  assert list(arms.index) == ["zero", "tuned"] and arms.index.name == "arm"
  tuned = arms.loc["tuned"]
  assert (tuned["queries"], tuned["rare_seen_predicted"], tuned["rare_seen_gold"]) == (10, 4, 1)
  assert tuned["right"] == pytest.approx(0.3) and tuned["shock"] == pytest.approx(0.5)
  assert tuned["gained"] == pytest.approx(0.2) and tuned["error_rarer_than_gold"] > 0
  of_json = diagnosis["arms"]["tuned"]
  assert tuned["right_low"] == of_json["right"]["low"]
  assert tuned["known_kept_high"] == of_json["known_kept"]["high"]
  assert tuned["rare_seen"] == of_json["shock"]["ratio"]["rare_seen"]["mean"]
  assert "by_popularity" not in arms and "answers" not in arms  # what is no estimate


def test_a_row_a_comparison_and_a_row_an_entity(diagnosis):
  (row,) = frames.comparisons(diagnosis).to_dict("records")
  assert (row["arm"], row["against"], row["wins"], row["losses"]) == ("tuned", "zero", 2, 5)
  assert row["difference"] == pytest.approx(-0.3) and row["seeds_same_sign"] == "1/1"
  assert row["difference_low"] <= row["difference"] <= row["difference_high"]
  entities = frames.entities(diagnosis).set_index("entity")
  baku = entities.loc["Baku"]
  assert (baku["predicted_zero"], baku["predicted_tuned"], baku["gold"]) == (0, 4, 1)
  assert baku["group"] == "rare_seen" and "predicted" not in entities


def test_csv_files_hold_the_same(diagnosis, tmp_path):
  paths = frames.write(diagnosis, tmp_path / "out")
  names = [path.rpartition("/")[2] for path in paths]
  assert names == ["arms.csv", "comparisons.csv", "entities.csv"]
  arms = pd.read_csv(paths[0], index_col="arm")
  pd.testing.assert_frame_equal(arms, frames.arms(diagnosis), check_dtype=False)
  for path, make in zip(paths[1:], (frames.comparisons, frames.entities)):
    pd.testing.assert_frame_equal(pd.read_csv(path), make(diagnosis), check_dtype=False)


def test_what_there_is_none_of_is_an_empty_table_with_columns(tmp_path):
  alone = summary.diagnose({"zero": hand.two_arms()["zero"]})
  assert frames.comparisons(alone).empty and "difference" in frames.comparisons(alone)
  assert frames.entities(alone).empty and "entity" in frames.entities(alone)
  assert len(frames.arms(alone)) == 1 and "shock" not in frames.arms(alone)
  frames.write(alone, tmp_path)
  assert (tmp_path / "comparisons.csv").read_text().startswith("arm,against,difference")


def test_accuracy_by_relation(diagnosis):
  assert frames.relations(diagnosis).empty  # of one relation there is nothing to tell apart
  rows = [
    {"subject": "a", "relation": "born", "object": "x", "prediction": "x"},
    {"subject": "b", "relation": "died", "object": "y", "prediction": "x"},
  ]
  two = hand.reading.from_rows(enumerate(rows, 1))
  found = summary.diagnose({"zero": {0: two}}, bootstrap=summary.Bootstrap(resamples=100))
  table = frames.relations(found).set_index("relation")
  assert table["right"].to_dict() == {"born": 1.0, "died": 0.0}
