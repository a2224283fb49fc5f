"""Points: their labels, and names of arms that could be taken for one."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factshock.predictions import points
from factshock.predictions.points import Point


@pytest.mark.parametrize(
  "point, label",
  [
    (Point("finetune"), "finetune"),
    (Point("finetune", 25), "finetune@25"),
    (Point("finetune", 1_000_000), "finetune@1000000"),
    (Point("mixing", 0.3), "mixing@0.3"),
    (Point("mixing", 1.0), "mixing@1"),
    (Point("mixing", 1e-5), "mixing@1e-05"),
    (Point("finetune", is_early=True), "finetune_early"),
  ],
)
def test_a_label_names_its_point(point, label):
  assert point.label == str(point) == label
  assert Point.parse(label) == point
  assert Point.parse(label).label == label


@pytest.mark.parametrize(
  "label", ["a@b", "a@", "@3", "_early", "@", "x@y@z", "a@1_0", "a@05", "a@nan"]
)
def test_a_label_of_another_program_is_an_arm(label):
  assert Point.parse(label) == Point(label)


names = st.text(min_size=1, max_size=12).filter(lambda name: points.name_problem(name) is None)
values = st.none() | st.integers(0, 10**9) | st.floats(0, 1e9, allow_nan=False)


@given(names, values, st.booleans())
def test_points_of_all_allowed_names_are_read_back(name, value, is_early):
  point = Point(name, None, is_early=True) if is_early else Point(name, value)
  assert Point.parse(point.label) == point
  assert Point.parse(point.label).label == point.label


def test_points_are_sorted_by_arm_and_value():
  ordered = [Point("a", 2), Point("a", 10), Point("a"), Point("a").early, Point("b", 0.5)]
  shuffled = ordered[:]
  random.Random(0).shuffle(shuffled)
  assert sorted(shuffled) == ordered


def test_a_point_is_at_a_value_or_early():
  with pytest.raises(ValueError, match="not both"):
    Point("a", 3, is_early=True)


@pytest.mark.parametrize(
  "name, reason",
  [
    ("", "a name is needed"),
    ("finetune_early", "'finetune' stopped early"),
    ("a@b", "between an arm and a value"),
    ("a/b", "folders"),
    ("a\\b", "folders"),
    ("..", "begins with '.'"),
    (".", "begins with '.'"),
    (".hidden", "begins with '.'"),
    ("a b", "space"),
    ("a\n", "space"),
    ("a\x00", "control"),
    ("pretrained", "checkpoints"),
    ("preparing", "lock"),
  ],
)
def test_names_that_could_be_taken_for_something_else_are_refused(name, reason):
  assert reason in points.name_problem(name)


def test_names_that_differ_in_case_alone_are_refused():
  assert points.name_problems(["mix", "other", "Mix"]) == {
    "Mix": "differs from 'mix' in case alone, and some file systems take these for one"
  }


def test_values_are_put_behind_labels_once():
  assert points.with_value("a", 25) == points.with_value("a@25", 25) == "a@25"
  assert points.with_value("a", 0.30000001) == "a@0.3" and points.with_value("a", "end") == "a@end"
  assert points.split("a@end") == ("a", "end") and points.split("a") == ("a", "")
