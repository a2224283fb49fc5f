"""The file of entity counts."""

import pytest

from factshock.facts import counts
from factshock.runtime.errors import UserError


def test_counts_survive_writing_and_reading(tmp_path):
  table = {("b", "x y"): 3, ("a", "z"): 0, ("a", "é"): 10**12, ("a", "b"): 0}
  counts.write_counts(tmp_path / "c.tsv", table)
  assert counts.read_counts(tmp_path / "c.tsv") == table
  assert (tmp_path / "c.tsv").read_text(encoding="utf-8").splitlines() == [
    "entity\tcount\trelation",
    "é\t1000000000000\ta",
    "b\t0\ta",
    "z\t0\ta",
    "x y\t3\tb",
  ]


def test_counts_without_relation_hold_in_any(tmp_path):
  (tmp_path / "c.tsv").write_text("count\tentity\n3\tRome\n")
  table = counts.read_counts(tmp_path / "c.tsv")
  assert table == {("", "Rome"): 3}
  assert counts.count_of(table, "born_in", "Rome") == 3
  assert counts.count_of(table, "born_in", "Baku") == 0
  assert counts.count_of({("born_in", "Rome"): 0, ("", "Rome"): 5}, "born_in", "Rome") == 0
  (tmp_path / "c.tsv").write_text("entity\tcount\tlongest\nRome\t3\t2\n")
  assert counts.read_counts(tmp_path / "c.tsv", "longest") == {("", "Rome"): 2}


@pytest.mark.parametrize(
  "text, expected",
  [
    ("", ":1: expected a header"),
    ("Rome\t3\n", ":1: expected a header"),
    ("entity\tcount\tcount\n", ":1: expected a header"),
    ("entity\tcount\n", "expected at least one count"),
    ("entity\tcount\nRome\n", ":2: expected 2 cells as in the header, got 1"),
    (
      "entity\tcount\nRome\tmany\n",
      ":2: expected an entity and a whole number from 0 on (18 digits at most), got 'Rome' and",
    ),
    ("entity\tcount\nRome\t-1\n", "whole number"),
    ("entity\tcount\nRome\t1.5\n", "whole number"),
    ("entity\tcount\n\t1\n", "whole number"),
    (f"entity\tcount\nRome\t{'9' * 5000}\n", "18 digits at most"),
    ("entity\tcount\nRome\t1\n\nRome\t2\n", ":4: expected each entity once"),
  ],
)
def test_bad_counts_are_named(tmp_path, text, expected):
  (tmp_path / "c.tsv").write_text(text)
  with pytest.raises(UserError) as caught:
    counts.read_counts(tmp_path / "c.tsv")
  assert expected in str(caught.value)


def test_names_that_tsv_cannot_hold_are_refused(tmp_path):
  with pytest.raises(UserError, match="without tab"):
    counts.write_counts(tmp_path / "c.tsv", {("a", "x\ty"): 1})
  assert list(tmp_path.iterdir()) == []
