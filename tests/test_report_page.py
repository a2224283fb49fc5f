"""The page: what it holds, what it leaves out, and how a browser shows it."""

import copy
import html
import json
import pathlib
import re
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_fixture import make_diagnosis

from factshock.report import canvas, page
from factshock.report.captions import WHY_NOT
from factshock.runtime.errors import UserError

CHROMIUM = (
  shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--hide-scrollbars",
]
EVIL = '<script>document.title="taken"</script><img src="https://evil.example/x.png">'
PROBE = """<script>addEventListener("load", () => {
  document.querySelectorAll("details").forEach(details => { details.open = true; });
  const found = {scroll: document.documentElement.scrollWidth, inner: innerWidth,
    images: [...document.images].map(
      i => i.naturalWidth > 0 && i.getBoundingClientRect().right <= innerWidth),
    clipped: [...document.querySelectorAll(".scroll")]
      .filter(box => box.scrollWidth > box.clientWidth).map(box => box.firstChild.className),
    loaded: performance.getEntriesByType("resource").map(e => e.name)
      .filter(n => !n.startsWith("data:"))};
  document.body.setAttribute("data-probe", JSON.stringify(found));
});</script>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A report whose first over-predicted entity and one arm's title are hostile."""
  diagnosis = make_diagnosis()
  worst = max(diagnosis["entities"], key=lambda row: row["predicted"]["finetune"] - row["gold"])
  worst["entity"] = EVIL
  diagnosis["titles"] = diagnosis["titles"] | {"majority": 'Majority <i>$answer$</i> & "co"'}
  path = tmp_path_factory.mktemp("report")
  assert str(page.write_report(diagnosis, path)) == str(path / "report.html")
  return path


@pytest.fixture(scope="module")
def source(folder):
  return (folder / "report.html").read_text(encoding="utf-8")


def chromium(tmp_path, url, *flags, width=390, height=844):
  if CHROMIUM is None:
    pytest.skip("no chromium here: the page is not opened in a browser")
  done = subprocess.run(
    [
      CHROMIUM,
      *FLAGS,
      f"--user-data-dir={tmp_path / 'profile'}",
      f"--window-size={width},{height}",
      *flags,
      url,
    ],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return done.stdout


def test_files_are_written(folder, source):
  figures = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
  assert {
    "steps.svg",
    "alpha_accuracy.svg",
    "alpha_variation.svg",
    "ratios.svg",
    "popularity.svg",
    "pressure_finetune.svg",
  } <= set(figures)
  assert all(data.startswith(b"<?xml") for data in figures.values())
  assert source.count("data:image/svg+xml;base64,") == len(figures)


def test_page_refers_to_nothing_outside(source):
  bare = re.sub(r"data:image/svg.xml;base64,[A-Za-z0-9+/=]+", "data:", source)
  assert re.findall(r'(?:src|href|srcset|action)="(?!data:")', bare) == []
  assert "@import" not in bare and "url(" not in bare and "<link" not in bare


def test_text_from_data_is_escaped(source):
  assert source.count("<script") == 2 and EVIL not in source, "our data and our script alone"
  assert html.escape(EVIL) in source
  assert "Majority &lt;i&gt;$answer$&lt;/i&gt; &amp; &quot;co&quot;" in source


def test_page_holds_the_numbers(source):
  for expected in (
    ".279",
    "2.46",
    "[2.24, 2.68]",
    "Both combined",
    "factshock experiment",
    "−.060",
    "McNemar",
    "<small>alpha 0.4, 0.3, 0.5</small>",
    "learning_rate",
    "Known<br>kept",
  ):
    assert expected in source, expected
  assert not any(sentence in source for sentence in WHY_NOT.values())


def test_parts_without_data_are_folded_away_with_what_would_fill_them():
  arms = {"before": {"right": {"mean": 0.3}}, "after": {"right": {"mean": 0.4}}}
  shown = page.render(page.reading.tidy({"arms": arms, "reference": "before"}), {})
  told, folded = shown.split("What is not shown, and why")
  for key in ("verdict", "remedies", "comparisons", "relations", "run"):
    assert WHY_NOT[key] in folded and f"<h2>{page.TITLES[key]}</h2>" not in told
  assert "prior_correction" in folded and "the config demo" in folded


def test_arms_that_play_a_part_come_first_and_the_others_are_folded(source):
  shown, folded = re.split(r"<summary>The other \d+ arms</summary>", source)[:2]
  for label in ("finetune", "zero_shot_question", "finetune_early"):
    assert f"<th scope=row>{title(label)}" in shown
  assert f"<th scope=row>{title('random_init')}" not in shown
  assert f"<th scope=row>{title('random_init')}" in folded


def title(label):
  return html.escape(page.reading.title(make_diagnosis(), label))


def test_a_page_without_a_name_is_called_after_its_arms():
  arms = {"before": {}, "after": {}, "mixed": {}, "cloze": {}, "prior": {}}
  for count, name in (
    (1, "Before"),
    (2, "Before and After"),
    (5, "Before, After, Mixed and 2 more"),
  ):
    some = dict(list(arms.items())[:count])
    shown = page.render(page.reading.tidy({"arms": some}), {})
    assert f"<h1>{name}</h1>" in shown and f"<title>{name}: frequency shock report" in shown


def test_a_page_is_dark_where_the_readers_system_is(folder, tmp_path):
  from matplotlib import image

  shares = []
  for scheme in (0, 1):
    shot = tmp_path / f"shot{scheme}.png"
    chosen = f"--blink-settings=preferredColorScheme={scheme}"
    chromium(tmp_path, (folder / "report.html").as_uri(), f"--screenshot={shot}", chosen)
    shares.append((image.imread(shot)[..., :3].max(-1) < 0.4).mean())
  assert shares[0] > 0.7 and shares[1] < 0.3


def test_legends_are_within_their_figures(monkeypatch):
  drawn = []
  original = canvas.panel

  def panel(figure, name, alt):
    made = original(figure, name, alt)
    drawn.append(figure)
    return made

  monkeypatch.setattr(canvas, "panel", panel)
  diagnosis = make_diagnosis()
  long = "A title of an arm that is as long as titles get"
  diagnosis["titles"] = {label: f"{long} {label}" for label in diagnosis["titles"]}
  page.draw(diagnosis)
  assert len(drawn) > 5
  for figure in drawn:
    for legend in figure.legends:
      box = legend.get_window_extent(canvas._renderer(figure))
      assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0


@pytest.mark.parametrize("width", [390, 1200])
def test_browser_shows_the_page_without_overflow(source, tmp_path, width):
  probed = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", source)
  path = tmp_path / "copy.html"
  path.write_text(probed.replace("</body>", PROBE + "</body>"), encoding="utf-8")
  dom = chromium(tmp_path, path.as_uri(), "--dump-dom", width=width)
  found = json.loads(html.unescape(re.search(r'data-probe="([^"]*)"', dom).group(1)))
  assert found["inner"] <= max(width, 500)
  assert found["scroll"] <= found["inner"]
  assert found["loaded"] == []
  assert found["images"] and all(found["images"])
  if width > 1000:
    assert found["clipped"] == [], "no table of a wide window scrolls sideways"
  assert "<title>demo: frequency shock report</title>" in dom
  assert "&lt;script&gt;document.title=" in dom, "the hostile name is text"
  assert dom.count("<script") == 3, "our data and script, and the probe of this test"


def test_browser_lists_every_answer_under_the_pages_own_policy(folder, tmp_path):
  """The script is allowed by its digest; names are text; the first row has the most predictions of
  the finetuned arm.
  """
  dom = chromium(tmp_path, (folder / "report.html").as_uri(), "--dump-dom")
  data = json.loads(
    re.search(
      r'id="entity-data">(.*?)</script>', (folder / "report.html").read_text(encoding="utf-8")
    ).group(1)
  )
  heads, table, arm = data["heads"], data["rows"], 6 + data["arm"]
  body = re.search(r'<tbody id="entity-body">(.*?)</tbody>', dom, re.S).group(1)
  assert body.count("<tr>") == min(200, len(table))
  most = max(row[arm] or 0 for row in table)
  first = re.findall(r"<t[hd]>(.*?)</t[hd]>", body)[: len(heads)]
  assert first[arm] == f"{most:,}" and "&lt;script&gt;" in body
  points = re.findall(r"<circle[^>]*><title>(.*?)</title>", dom)
  assert len(points) == sum(row[2] > 0 or row[4] > 0 for row in table) and all(
    ": gold " in point for point in points
  )


CLICKS = """<script>addEventListener("load", () => {
  const rows = () => [...document.querySelectorAll("#entity-body tr")];
  const cells = column => rows().map(row => row.children[column].textContent);
  document.querySelectorAll("#entity-heads button")[0].click();
  const names = cells(0);
  const search = document.getElementById("entity-search");
  search.value = names[3];
  search.dispatchEvent(new Event("input"));
  document.body.setAttribute("data-probe", JSON.stringify({names, found: cells(0)}));
});</script>"""


def test_table_sorts_and_searches(source, tmp_path):
  path = tmp_path / "copy.html"
  path.write_text(
    re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", source).replace(
      "</body>", CLICKS + "</body>"
    ),
    encoding="utf-8",
  )
  dom = chromium(tmp_path, path.as_uri(), "--dump-dom")
  found = json.loads(html.unescape(re.search(r'data-probe="([^"]*)"', dom).group(1)))
  assert [name.lower() for name in found["names"]] == sorted(
    name.lower() for name in found["names"]
  )
  assert found["names"][3] in found["found"] and len(found["found"]) < len(found["names"])


def test_browser_draws_the_page(folder, tmp_path):
  shot = tmp_path / "shot.png"
  chromium(tmp_path, (folder / "report.html").as_uri(), f"--screenshot={shot}", height=3000)
  from matplotlib import image

  pixels = image.imread(shot)
  assert pixels.shape[0] == 3000
  dark = (pixels[..., :3].max(-1) < 0.4).any(1)
  assert dark[:1000].sum() > 200 and dark[2000:].sum() > 100, "text from the top to far down"


def test_without_arms_is_an_error(tmp_path):
  for bad in ({}, {"arms": {}}, []):
    with pytest.raises(UserError, match="at least one arm"):
      page.write_report(bad, tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_written_is_an_error(tmp_path):
  (tmp_path / "file").write_text("x")
  with pytest.raises(UserError, match="cannot be written"):
    page.write_report({"arms": {"a": {}}}, tmp_path / "file")


def without(diagnosis, *keys):
  return {key: value for key, value in diagnosis.items() if key not in keys}


@pytest.mark.parametrize(
  "key, reasons",
  [
    ("curves", ["steps", "alpha"]),
    ("entities", ["pressure", "entities", "browser"]),
    ("comparisons", ["comparisons", "remedies"]),
    ("run", ["run"]),
    ("remedies", ["remedies"]),
    ("notes", ["notes"]),
  ],
)
def test_a_missing_part_is_left_out_with_its_reason(key, reasons, monkeypatch):
  monkeypatch.setattr(canvas, "panel", lambda figure, name, alt: canvas.Panel(name, b"", alt))
  diagnosis = without(make_diagnosis(), key)
  shown = page.render(diagnosis, page.draw(diagnosis))
  assert [name for name, reason in WHY_NOT.items() if reason in shown] == reasons


def test_missing_measures_are_left_out_with_their_reasons(monkeypatch):
  monkeypatch.setattr(canvas, "panel", lambda figure, name, alt: canvas.Panel(name, b"", alt))
  diagnosis = without(make_diagnosis(), "entities")
  diagnosis["arms"] = {
    label: without(arm, "shock", "by_popularity") for label, arm in diagnosis["arms"].items()
  }
  pictures = page.draw(diagnosis)
  shown = page.render(diagnosis, pictures)
  assert [panel.name for panel in pictures["alpha"]] == ["alpha_accuracy"]
  for name in ("shock", "ratios", "pressure", "popularity", "entities"):
    assert WHY_NOT[name] in shown


def test_predictions_of_one_foreign_arm_are_enough(tmp_path):
  estimate = {"mean": 0.5, "low": None, "high": None, "by_seed": {"0": 0.5}}
  diagnosis = {
    "format": 1,
    "reference": None,
    "seeds": [0],
    "arms": {"mine": {"queries": 4, "right": estimate}},
  }
  shown = pathlib.Path(page.write_report(diagnosis, tmp_path)).read_text(encoding="utf-8")
  assert ".500" in shown and "Mine" in shown and "4 test queries an arm, one seed" in shown
  assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]


@pytest.mark.parametrize("seeds", [(0,), tuple(range(5))])
def test_one_seed_or_five(seeds, monkeypatch):
  monkeypatch.setattr(canvas, "panel", lambda figure, name, alt: canvas.Panel(name, b"", alt))
  diagnosis = make_diagnosis(seeds)
  shown = page.render(diagnosis, page.draw(diagnosis))
  assert ("over 5 seeds" in shown) == (len(seeds) == 5)
  assert ("not how far another seed could" in shown) == (len(seeds) == 1)


DIAGNOSIS = make_diagnosis((0, 1))
DIAGNOSIS["entities"] = DIAGNOSIS["entities"][::20]


def paths(tree, prefix=()):
  """Paths to all dict entries but the arms' names."""
  for key, value in tree.items():
    if isinstance(value, dict):
      yield from paths(value, (*prefix, key))
    yield (*prefix, key)


PATHS = sorted(path for path in paths(DIAGNOSIS) if path != ("arms",))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PATHS), st.booleans()), min_size=1, max_size=30))
def test_any_gap_still_gives_a_page(gaps):
  diagnosis = copy.deepcopy(DIAGNOSIS)
  for path, null in gaps:
    place = diagnosis
    for key in path[:-1]:
      place = place.get(key) if isinstance(place, dict) else None
    if isinstance(place, dict) and path[-1] in place:
      if null:
        place[path[-1]] = None
      else:
        del place[path[-1]]
  shown = page.render(page.reading.tidy(diagnosis), {})
  assert shown.endswith("</html>\n") and "NaN" not in shown and ">None<" not in shown
