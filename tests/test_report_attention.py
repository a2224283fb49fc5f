"""The report's section on attention: there with its numbers, absent without; what the sentences
claim; what is drawn.
"""

import copy
import html

import attention_files as hand
import numpy as np
import pytest
from report_fixture import STEPS, make_diagnosis, size_of

from factshock.diagnosis import attention as measured
from factshock.diagnosis.statistics import Bootstrap
from factshock.predictions import reading
from factshock.report import (
  attention_plots,
  attention_tables,
  attention_text,
  canvas,
  numbers,
  page,
)

FALL = {
  "zero_shot_question": 0,
  "finetune": -0.06,
  "weight_mixing": -0.01,
  "mixture": -0.06,
  "popular_half": 0.02,
  "unpopular_half": -0.05,
}
EVIL = 'Mix <i>of</i> "both" & {more}'


def make_attention(folder, shapes=None, sites=("encoder", "cross"), facts=30):
  """The part "attention" of a diagnosis, measured on made-up files: the last site falls as FALL
  says, an encoder stays as it is.
  """
  rng = np.random.default_rng(0)
  base = hand.arrays(
    rng, facts=facts, sites=sites, shapes=shapes or {"encoder": (2, 4), "cross": (2, 4)}
  )
  fall = {
    **FALL,
    **{f"finetune@{step}": FALL["finetune"] * place / 5 for place, step in enumerate(STEPS)},
  }
  noise = {label: rng.normal(0, 0.01, base[f"{sites[-1]}/mass"].shape) for label in fall}
  noise["mixture"] = noise["finetune"] + rng.normal(0, 1e-4, noise["finetune"].shape)
  paths = {
    label: {
      0: hand.write(
        folder / f"{label}.npz", hand.moved(base, by + noise[label] * (by != 0), sites[-1])
      )
    }
    for label, by in fall.items()
  }
  rows = [
    {"subject": f"s{i}", "relation": "rq"[i % 2], "object": f"o{i % 7}"} for i in range(facts)
  ]
  said = {
    label: {
      0: reading.from_rows(
        enumerate(
          {**row, "prediction": row["object"] if (i + place) % 3 else "none"}
          for i, row in enumerate(rows)
        )
      )
    }
    for place, label in enumerate(("zero_shot_question", "finetune"))
  }
  return measured.diagnose(
    paths,
    reference="zero_shot_question",
    predictions=said,
    pairs=[
      ("weight_mixing", "finetune"),
      ("mixture", "finetune"),
      ("popular_half", "unpopular_half"),
    ],
    bootstrap=Bootstrap(resamples=100),
  )


@pytest.fixture(scope="module")
def diagnosis(tmp_path_factory):
  found = {**make_diagnosis(), "entities": []}
  found["titles"] = {**found["titles"], "mixture": EVIL}
  return {**found, "attention": make_attention(tmp_path_factory.mktemp("files"))}


@pytest.fixture
def undrawn(monkeypatch):
  monkeypatch.setattr(canvas, "panel", lambda figure, name, alt: canvas.Panel(name, b"", alt))


def rendered(diagnosis):
  tidy = page.reading.tidy(diagnosis)
  return page.render(tidy, attention_plots.draw(tidy))


def section(shown):
  return shown[shown.index("<h2>Attention to the subject</h2>") :].split("</section>")[0]


def test_the_section_is_there_with_its_numbers(diagnosis, undrawn):
  shown = section(rendered(diagnosis))
  cross = diagnosis["attention"]["arms"]["finetune"]["sites"]["cross"]
  for found, write in (
    (cross["mass"], numbers.share),
    (cross["contribution"], numbers.ratio),
    (cross["salience"], numbers.ratio),
    (cross["contribution_rest"], numbers.ratio),
    (cross["share_of_uniform"], numbers.ratio),
    (cross["wrong"], numbers.share),
  ):
    assert (
      f"{write(found['mean'])}<small>[{write(found['low'])}, {write(found['high'])}]</small>"
      in shown
    )
  size = numbers.share(cross["change"]["mass"]["mean"], True)
  assert (
    f"<b>{size}</b>" in shown
    and "salience" in shown
    and "reference" not in shown.split("<details>")[0]
  )
  encoder = diagnosis["attention"]["arms"]["finetune"]["sites"]["encoder"]["change"]["mass"]
  assert encoder["mean"] == 0 and "<b>.000</b>" not in shown


def test_no_section_without_attention(undrawn):
  shown = rendered(make_diagnosis())
  assert "Attention to the subject" not in shown and attention_plots.draw(make_diagnosis()) == {}


def test_titles_are_escaped(diagnosis, undrawn):
  shown = rendered(diagnosis)
  assert EVIL not in shown and html.escape(EVIL) in section(shown)


def test_panels_are_those_of_the_arms_and_sites(diagnosis, undrawn):
  names = {
    key: [panel.name for panel in panels] for key, panels in attention_plots.draw(diagnosis).items()
  }
  changed = [
    label for label in diagnosis["table"] if label in FALL and label != "zero_shot_question"
  ]
  assert names["attention_heads"] == [
    f"attention_{site}_{label}" for site in ("encoder", "cross") for label in changed
  ]
  assert names["attention_popularity"] == [
    f"attention_{kind}_{site}"
    for site in ("encoder", "cross")
    for kind in ("popularity", "popularity_change")
  ]
  assert names["attention_curves"] == ["attention_steps_encoder", "attention_steps_cross"]


@pytest.mark.parametrize("shape, numbers", [((2, 4), 8), ((32, 32), 0)])
def test_small_panels_have_numbers_and_all_have_one_scale(tmp_path, monkeypatch, shape, numbers):
  figures = []
  monkeypatch.setattr(
    canvas,
    "panel",
    lambda figure, name, alt: figures.append(figure) or canvas.Panel(name, b"", alt),
  )
  found = {
    **make_diagnosis(),
    "attention": make_attention(tmp_path, {"self": shape}, ("self",), facts=8),
  }
  panels = attention_plots.head_panels(found, "self")
  assert len(panels) == len(figures) == 5
  assert {len(figure.axes[0].texts) for figure in figures} == {numbers}
  limits = {figure.axes[0].images[0].get_clim() for figure in figures}
  low, high = limits.pop()
  assert not limits and low == -high < 0


def test_panels_are_small_images(diagnosis):
  panels = attention_plots.draw({**diagnosis, "curves": {}})
  for panel in (panels["attention_heads"][0], *panels["attention_popularity"]):
    width, height = size_of(panel.svg)
    assert 250 <= width <= 360 and height <= 1.1 * width


def test_many_arms_look_different_and_those_with_a_part_are_drawn(diagnosis):
  part = diagnosis["attention"]
  many = {f"arm{i}": part["arms"]["mixture"] for i in range(12)}
  found = {
    **diagnosis,
    "table": [*many, *diagnosis["table"]],
    "attention": {**part, "arms": {**many, **part["arms"]}},
  }
  drawn = attention_plots.drawn_labels(found)
  assert {"zero_shot_question", "finetune", "weight_mixing", "mixture"} <= set(drawn) and len(
    drawn
  ) <= 9
  looks = attention_plots.looks(found)
  assert set(looks) == set(drawn) - {"zero_shot_question"} and len(set(looks.values())) == len(
    looks
  )


def test_without_a_reference_levels_are_drawn(diagnosis, undrawn):
  found = {**diagnosis, "attention": {**diagnosis["attention"], "reference": None}}
  assert all(
    panel.alt.startswith("Attention to the subject in")
    for panel in attention_plots.draw(found)["attention_curves"]
  )
  assert all(
    panel.alt.startswith("Change of attention")
    for panel in attention_plots.draw(diagnosis)["attention_curves"]
  )


def said(diagnosis):
  return " ".join(attention_text.sentences(diagnosis))


def test_sentences_say_what_fell_and_by_how_much(diagnosis):
  change = diagnosis["attention"]["arms"]["finetune"]["sites"]["cross"]["change"]["mass"]
  words = said(diagnosis)
  assert (
    "clearly less in cross-attention (" in words and numbers.share(change["mean"], True) in words
  )
  assert "not clearly more or less in the encoder" in words
  assert (
    "clearly more with Weight mixing (+" in words
    and f"not clearly more or less with {EVIL}" in words
  )
  assert "“Popular half” attends clearly more to the subject than “Unpopular half”" in words
  assert "no clear difference" in words


def test_no_effect_is_claimed_whose_interval_includes_0(diagnosis):
  found = copy.deepcopy(diagnosis)

  def widen(tree):
    if isinstance(tree, dict) and "low" in tree and "mean" in tree:
      tree.update(low=-1.0, high=1.0)
    for value in (
      tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    ):
      widen(value)

  widen(found["attention"])
  words = said(found)
  assert "clearly" in words and words.count("clearly") == words.count("not clearly")
  assert "<b>" not in "".join(attention_tables.tables(found).values())


PATHS = [
  ("attention",),
  ("attention", "arms"),
  ("attention", "comparisons"),
  ("attention", "reference"),
  ("attention", "notes"),
  ("roles",),
  ("table",),
  *(("attention", "arms", label) for label in ("zero_shot_question", "finetune")),
  *(("attention", "arms", "finetune", "sites", site) for site in ("encoder", "cross")),
  *(
    ("attention", "arms", "finetune", "sites", "cross", *path)
    for path in (
      ("mass",),
      ("change",),
      ("change", "mass"),
      ("change", "by_head"),
      ("change", "by_head", "mean"),
      ("change", "lost"),
      ("by_popularity",),
      ("contribution",),
      ("mass", "low"),
      ("change", "mass", "high"),
    )
  ),
]


@pytest.mark.parametrize("path", PATHS)
def test_any_gap_still_gives_a_page(diagnosis, path, undrawn):
  found = {**diagnosis, "attention": copy.deepcopy(diagnosis["attention"])}
  place = found
  for key in path[:-1]:
    place = place[key]
  del place[path[-1]]
  tidy = page.reading.tidy(found)
  shown = page.render(
    tidy,
    attention_plots.draw(tidy)
    if path[-1] in ("sites", "cross", "mean", "by_popularity", "reference")
    else {},
  )
  assert shown.endswith("</html>\n") and "NaN" not in shown
  assert (path in (("attention",), ("attention", "arms"))) == (
    "Attention to the subject" not in shown
  )
  assert "Attention to the subject" not in shown or "None" not in section(shown)
