"""The page of an extraction: what it holds, what it leaves out and why, hostile names, and how a
browser shows it.
"""

import copy
import html
import json
import pathlib
import re
import subprocess
import sys

import pytest
from extraction_fixture import make_extraction
from hypothesis import given, settings
from hypothesis import strategies as st
from report_fixture import size_of
from test_report_page import EVIL, PROBE, chromium, paths, without

from factshock.report import extraction_page, extraction_plots, extraction_text, numbers
from factshock.report.extraction_captions import WHY_NOT
from factshock.runtime.errors import UserError

EXTRACTION = make_extraction(4, resamples=40)
NONE_FOUND = ("no_over_predicted", "no_conflicts")


def shown(extraction):
  return extraction_page.render(numbers.without_none(extraction), {})


def said(extraction):
  return dict(extraction_text.sentences(numbers.without_none(extraction)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A report with hostile names wherever names stand."""
  extraction = copy.deepcopy(EXTRACTION)
  extraction["run"]["id"] = extraction["run"]["model"] = EVIL
  extraction["relations"][0]["label"] = EVIL
  extraction["relations"][1]["method"] = "<i>$x$</i>"
  extraction["over_predicted"][0] |= {"entity": EVIL, "displaced": [[EVIL, 3]]}
  extraction["conflicts"]["counts"]["<b>kind"] = 3
  extraction["conflicts"]["examples"][0]["kept"] = [EVIL, "P19", EVIL, 0.9]
  extraction["outputs"][0]["path"] = EVIL
  extraction["notes"]["<u>name"] = EVIL
  path = tmp_path_factory.mktemp("extraction")
  assert str(extraction_page.write_report(extraction, path)) == str(path / "report.html")
  return path


@pytest.fixture(scope="module")
def source(folder):
  return (folder / "report.html").read_text(encoding="utf-8")


def test_files_are_written(folder, source):
  figures = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
  assert set(figures) == {"reliability.svg", "relations.svg", "risk_coverage.svg"}
  for data in figures.values():
    width, height = size_of(data)
    assert data.startswith(b"<?xml") and 250 <= width <= 400 and height <= 1.4 * width
  assert source.count("data:image/svg+xml;base64,") == len(figures)


def test_page_refers_to_nothing_and_runs_nothing(source):
  bare = re.sub(r"data:image/svg.xml;base64,[A-Za-z0-9+/=]+", "data:", source)
  assert re.findall(r'(?:src|href|srcset|action)="(?!data:")', bare) == []
  assert "<script" not in source and "script-src" not in source and "default-src 'none'" in source


def test_text_from_data_is_escaped(source):
  assert EVIL not in source and source.count(html.escape(EVIL)) >= 8
  for tag in ("<i>$", "<b>kind", "<u>name"):
    assert tag not in source and html.escape(tag) in source


def test_page_holds_the_numbers():
  found = EXTRACTION["quality"]["pooled"]
  page = shown(EXTRACTION)
  for key in ("ece", "brier", "auroc", "share_right"):
    assert (
      numbers.share(found[key]["mean"]) + f"<small>{numbers.interval(found[key])}</small>" in page
    )
  for expected in (
    "Ústí nad Labem",
    "Prague (96)",
    "3 of 19",
    ".710 → .190",
    "place of birth",
    "runs/graph/triples.nt",
    "Stone Town",
    "confidence .930",
    "7f3c2e",
    "isotonic",
    "Yield at 90%",
    "15 bins",
  ):
    assert expected in page, expected
  missing = [key for key, reason in WHY_NOT.items() if reason in page]
  assert missing == ["reliability", "risk"], "drawn apart"


def test_summary_says_what_the_numbers_say():
  words = said(EXTRACTION)
  assert list(words) == [
    "Triples",
    "Promise",
    "Confidence",
    "Ranking",
    "Relations",
    "Frequency shock",
    "Contradictions",
  ]
  assert "at least .742" in words["Promise"] and "precision of 90%" in words["Promise"]
  assert "falls short" not in words["Promise"]
  assert "at least .904 are right (lower bound, 90% confidence)" in words["Promise"]
  assert "Ústí nad Labem" in words["Frequency shock"] and "412 times" in words["Frequency shock"]
  assert words["Contradictions"].startswith("181 contradictions")
  assert "type" not in words["Contradictions"], "of this kind there is none"


def estimate(mean, low, high):
  return {"mean": mean, "low": low, "high": high}


@pytest.mark.parametrize(
  "gap, expected",
  [
    (estimate(0.08, 0.05, 0.11), "too high on the whole"),
    (estimate(-0.08, -0.11, -0.05), "too low on the whole"),
    (estimate(0.01, -0.02, 0.04), "neither clearly too high nor clearly too low"),
    (estimate(0.08, None, None), "neither clearly too high nor clearly too low"),
  ],
)
def test_overconfidence_is_claimed_only_where_it_is_clear(gap, expected):
  assert expected in said({"quality": {"pooled": {"overconfidence": gap}}})["Confidence"]


def test_absent_effects_are_said_to_be_absent():
  quality = {
    "pooled": {
      "auroc": estimate(0.52, 0.48, 0.57),
      "yields": [{"precision": 0.9, "share": estimate(0.0, 0.0, 0.1), "answers": 0}],
    },
    "relations": {name: {"overconfidence": estimate(0.01, -0.1, 0.1)} for name in "ab"},
  }
  words = said(
    {"quality": quality, "over_predicted": [], "conflicts": {"counts": {"functional": 0}}}
  )
  assert words["Ranking"].startswith("Confidence does not clearly tell right from wrong")
  assert "no cut reaches 90% precision" in words["Ranking"]
  assert words["Relations"].startswith("In none of 2 relations")
  assert words["Frequency shock"].startswith("No answer is given far more often")
  assert words["Contradictions"].startswith("No two triples")


def test_promises_that_are_not_kept_or_not_made():
  promise = EXTRACTION["promise"]
  assert (
    "falls short of the promise" in said({"promise": promise | {"lower_bound": 0.88}})["Promise"]
  )
  assert "none is promised" in said({"promise": promise | {"threshold": None}})["Promise"]
  assert said({"promise": {"target": None, "rule": "f1"}})["Promise"] == (
    "No precision was promised: answers were accepted where that raises the expected F1."
  )


@pytest.mark.parametrize(
  "key, reasons",
  [
    ("quality", ["quality", "yields"]),
    ("relations", []),
    ("over_predicted", ["over_predicted"]),
    ("conflicts", ["conflicts"]),
    ("outputs", ["outputs"]),
    ("run", ["run"]),
    ("notes", []),
  ],
)
def test_a_missing_part_is_left_out_with_its_reason(key, reasons):
  page = shown(without(EXTRACTION, key))
  assert {name for name, reason in WHY_NOT.items() if reason in page} == {
    "reliability",
    "risk",
    *reasons,
  }


def test_an_empty_part_is_not_a_missing_one():
  page = shown(EXTRACTION | {"over_predicted": [], "conflicts": {"counts": {}, "examples": []}})
  for name in ("over_predicted", "conflicts"):
    assert WHY_NOT["no_" + name] in page and WHY_NOT[name] not in page


def test_counts_alone_are_enough(tmp_path):
  path = extraction_page.write_report({"counts": {"queries": 10, "accepted": 4}}, tmp_path)
  page = pathlib.Path(path).read_text(encoding="utf-8")
  assert "10 queries gave 4 accepted answers." in page
  assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]
  assert all(
    reason in page for key, reason in WHY_NOT.items() if key not in (*NONE_FOUND, "summary")
  )


def test_relations_without_held_out_answers_are_listed():
  relations = [
    {
      "relation": "P1",
      "label": "one",
      "queries": 5,
      "accepted": 2,
      "calibration_units": 0,
      "pooled": True,
    }
  ]
  empty = {
    "units": 0,
    "right": 0,
    "queries": 5,
    "ece": None,
    "auroc": None,
    "yields": [{"precision": 0.9, "share": None}],
  }
  extraction = {"relations": relations, "quality": {"pooled": empty, "relations": {"P1": empty}}}
  page = shown(extraction)
  assert "one (P1)" in page and "<small>pooled</small>" in page
  assert WHY_NOT["quality"] in page and WHY_NOT["relations"] not in page
  assert extraction_plots.draw(numbers.without_none(extraction)["quality"]) == {
    "reliability": [],
    "risk": [],
  }


def test_a_hundred_relations_scroll_in_a_box():
  page = shown(make_extraction(100, resamples=5))
  assert page.count('<div class="tall">') == 1
  assert page.count('<div class="tall">') > shown(EXTRACTION).count('<div class="tall">')
  assert len(page) < 400_000


def test_what_is_no_extraction_is_an_error(tmp_path):
  for bad in ({}, [], None):
    with pytest.raises(UserError, match="expected a dict with parts"):
      extraction_page.write_report(bad, tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_module_starts_without_matplotlib_numpy_or_jax():
  code = (
    "import sys, factshock.report.extraction_page; "
    "print([name for name in ('matplotlib', 'jax', 'numpy', 'scipy') if name in sys.modules])"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout == "[]\n"


PATHS = sorted(paths(EXTRACTION))


@settings(max_examples=40, deadline=None)
@given(
  st.lists(st.tuples(st.sampled_from(PATHS), st.booleans()), min_size=1, max_size=30),
  st.sets(
    st.tuples(
      st.sampled_from(["relations", "over_predicted"]), st.integers(0, 1), st.integers(0, 8)
    )
  ),
)
def test_any_gap_still_gives_a_page(gaps, cells):
  extraction = copy.deepcopy(EXTRACTION)
  for part, row, column in cells:
    found = extraction[part][row]
    if column < len(found):
      found[list(found)[column]] = None
  for path, null in gaps:
    place = extraction
    for key in path[:-1]:
      place = place.get(key) if isinstance(place, dict) else None
    if isinstance(place, dict) and path[-1] in place:
      if null:
        place[path[-1]] = None
      else:
        del place[path[-1]]
  page = shown(extraction)
  assert page.endswith("</html>\n") and "NaN" not in page and ">None<" not in page


@pytest.mark.parametrize("width", [390, 1185])  # 1200 less a scroll bar
def test_browser_shows_the_page_without_overflow(source, tmp_path, width):
  probed = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", source)
  path = tmp_path / "copy.html"
  path.write_text(probed.replace("</body>", PROBE + "</body>"), encoding="utf-8")
  dom = chromium(tmp_path, path.as_uri(), "--dump-dom", width=width)
  found = json.loads(html.unescape(re.search(r'data-probe="([^"]*)"', dom).group(1)))
  assert found["scroll"] <= found["inner"] and found["loaded"] == []
  assert len(found["images"]) == 3 and all(found["images"])
  if width > 1000:
    assert found["clipped"] == [], "no table of a wide window scrolls sideways"
  assert "<title>taken" not in dom and dom.count("<script") == 1, "the probe of this test alone"


@pytest.mark.parametrize(
  "run, name",
  [
    ({"model": "google/flan-t5-large"}, "google/flan-t5-large"),
    ({"model": "/data/runs/cloze.jsonl.gz"}, "cloze.jsonl.gz"),
    ({"checkpoint": "runs/mine/checkpoints/mixture/0"}, "mixture/0"),
    ({"model": "mine", "checkpoint": "runs/mine/checkpoints/mixture/0"}, "mine"),
  ],
)
def test_the_title_says_whose_graph_it_is(run, name):
  assert f"<h1>Knowledge graph of {name}</h1>" in shown({"run": run, "counts": {"queries": 2}})


def test_what_was_looked_for_and_not_found_is_folded():
  page = shown({"counts": {"queries": 2}, "over_predicted": [], "conflicts": {}})
  told, folded = page.split("What is not shown, and why")
  for key in ("no_over_predicted", "no_conflicts", "quality"):
    assert WHY_NOT[key] in folded and WHY_NOT[key] not in told
