"""The pictures: which arms they show, what they compute, and that they stay small and distinct."""

import math
import subprocess
import sys

import pytest
from report_fixture import make_diagnosis, size_of

from factshock.report import plots, shock_plots, tables


@pytest.fixture(scope="module")
def diagnosis():
  return make_diagnosis()


def test_eight_arms_look_different_and_those_with_a_role_always_the_same(diagnosis):
  labels = ["a", "finetune", "weight_mixing", "b", "mixture", "combined", "c", "d"]
  looks = plots.styles(diagnosis, labels)
  assert len(set(looks.values())) == 8
  assert plots.styles(diagnosis, ["x", "finetune"])["finetune"] == looks["finetune"]
  assert len(plots.styles(diagnosis, [str(i) for i in range(20)])) == 20


def test_looks_go_by_roles_and_not_by_names(diagnosis):
  described = {"mine": diagnosis["descriptions"]["mixture"]}
  looks = plots.styles({**diagnosis, "descriptions": described}, ["mixture", "mine"])
  assert looks["mine"] == plots.styles(diagnosis, ["mixture"])["mixture"]
  assert looks["mixture"] != looks["mine"]


def test_points_are_in_doublings_and_smoothed():
  rows = [
    {
      "pressure": math.log(8),
      "gold": 1,
      "finetuning": 4,
      "group": "rare_seen",
      "predicted": {"a": 7},
    },
    {"pressure": 0.0, "gold": 0, "finetuning": 0, "group": "rare_unseen", "predicted": {"a": 1}},
    {"pressure": None, "gold": 1, "finetuning": 1, "group": "rare_seen", "predicted": {"a": 1}},
  ]
  assert shock_plots.pressure_points({"entities": rows}, "a") == [
    (pytest.approx(3), 2, 1, "rare_seen")
  ]


def test_panels_show_zero_shot_finetuned_and_the_best_remedy(diagnosis):
  assert shock_plots.pressure_arms(diagnosis) == ["zero_shot_question", "finetune", "combined"]


def test_popularity_shows_the_halves_and_zero_shot(diagnosis):
  assert plots.popularity_arms(diagnosis) == [
    "popular_half",
    "unpopular_half",
    "random_half",
    "whole",
    "zero_shot_question",
  ]


def test_ratios_leave_out_controls_where_arms_are_many(diagnosis):
  labels = shock_plots.ratio_arms(diagnosis)
  assert "finetune" in labels and "combined" in labels
  assert not {"random_init", "majority", "whole"} & set(labels)


def test_controls_do_not_squeeze_the_other_curves(diagnosis):
  names = [panel.name for panel in plots.accuracy_by_steps(diagnosis)]
  assert names == ["steps", "steps_facts", "steps_controls"]


def test_panels_are_neither_wide_nor_tall(diagnosis):
  for panel in shock_plots.ratios(diagnosis) + plots.by_popularity(diagnosis):
    width, height = size_of(panel.svg)
    assert 250 <= width <= 360 and height <= 1.4 * width


def test_fitted_slope_without_an_estimate_is_least_squares(diagnosis):
  rows = [
    {
      "pressure": 2 * math.log(2**k),
      "gold": 1,
      "finetuning": 1,
      "group": "rare_seen",
      "predicted": {"a": 2 * 2**k - 1},
    }
    for k in range(4)
  ]
  (panel,) = shock_plots.by_pressure({"arms": {"a": {}}, "entities": rows})
  assert "slope .50" in panel.alt


def test_extreme_entities_are_sorted_by_surplus(diagnosis):
  over, under = tables.extreme_entities(diagnosis, "finetune", most=5)
  surplus = [row["predicted"]["finetune"] - row["gold"] for row in over + under[::-1]]
  assert len(over) == len(under) == 5 and surplus == sorted(surplus, reverse=True)
  assert surplus[4] > 0 > surplus[5]


def test_report_starts_without_matplotlib_or_jax():
  code = (
    "import sys, factshock.report.page; "
    "print([name for name in ('matplotlib', 'jax', 'numpy', 'scipy') if name in sys.modules])"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout == "[]\n"
