"""Attention to the subject in the report: sentences, tables and pictures of the diagnosis's part "attention"."""

from factshock.report import plots, reading, tables
from factshock.report.reading import interval, ratio, share
from factshock.report.tables import bar, cell, difference, spread, text

SITES = {"encoder": "the encoder", "cross": "cross-attention", "self": "self-attention"}
HEADS = {
  "contribution": "Subject<br>(logits)",
  "contribution_rest": "Rest<br>(logits)",
  "salience": "Salience<br>(logits)",
}
PICTURES = ("attention_heads", "attention_popularity", "attention_curves")
MOST_NUMBERS = 64  # cells of a panel up to which each has its number
_CHANGE = "Change of attention to the subject"
_NOTHING = {"mean": 0.0, "low": None, "high": None}
AXES = {"steps": "finetuning steps", "alpha": "the mixing weight alpha"}


def labels(diagnosis):
  """Labels of the table of arms whose attention was measured, in the table's order."""
  return [
    label
    for label in reading.table_labels(diagnosis)
    if any(estimate(diagnosis, label, site, "mass") for site in SITES)
  ]


def reference(diagnosis):
  """Label of the arm that the others' attention is compared with, or None."""
  return _part(diagnosis).get("reference")


def estimate(diagnosis, label, site, *path):
  """An estimate of one arm at one site, or None."""
  return reading.clean(_at(diagnosis, label, site, *path))


def _part(diagnosis):
  return diagnosis.get("attention") or {}


def _at(diagnosis, label, site, *path):
  place = _part(diagnosis)
  for key in ("arms", label, "sites", site, *path):
    place = place.get(key) if isinstance(place, dict) else None
  return place


def sites(diagnosis):
  """The sites where attention was measured."""
  return [
    site
    for site in SITES
    if any(estimate(diagnosis, label, site, "mass") for label in labels(diagnosis))
  ]


def _heading(site):
  return SITES[site].removeprefix("the ").capitalize()


def _answering(diagnosis):
  """The site that answers are read from: the last one."""
  return sites(diagnosis)[-1]


def sentences(diagnosis):
  """What the numbers say, as plain texts: no effect is claimed whose interval includes 0."""
  if not labels(diagnosis):
    return []
  found = [
    _against_reference(diagnosis),
    _remedies(diagnosis),
    _halves(diagnosis),
    _where_lost(diagnosis),
  ]
  return [words for words in found if words]


def _sign(found):
  """1 or -1 where the interval is above or below 0, else 0."""
  if found is None or None in (found["low"], found["high"]):
    return 0
  return (found["low"] > 0) - (found["high"] < 0)


def _size(found):
  return f"{share(found['mean'], True)} {interval(found)}".strip()


def _against_reference(diagnosis):
  label = reading.roles(diagnosis)["finetuned"]
  other = reference(diagnosis)
  words = []
  for site in sites(diagnosis)[::-1] if other is not None else ():
    found = estimate(diagnosis, label, site, "change", "mass")
    if found:
      levels = " to ".join(
        share(estimate(diagnosis, one, site, "mass")["mean"])
        for one in (other, label)
        if estimate(diagnosis, one, site, "mass")
      )
      kind = {-1: "clearly less", 0: "not clearly more or less", 1: "clearly more"}[_sign(found)]
      words.append(f"{kind} in {SITES[site]} ({levels}: {_size(found)})")
  if not words:
    return None
  names = " against ".join(f"“{reading.title(diagnosis, one)}”" for one in (label, other))
  return f"Attention to the subject, {names}: {', '.join(words)}."


def _compared(diagnosis, site):
  """dict (arm, against) -> difference of mass at a site."""
  rows = {
    (row.get("arm"), row.get("against")): reading.clean(row.get("mass"))
    for row in _part(diagnosis).get("comparisons") or []
    if row.get("site") == site
  }
  return {pair: found for pair, found in rows.items() if found}


def _remedies(diagnosis):
  role = reading.roles(diagnosis)
  site = _answering(diagnosis)
  mended = role["finetuned"]
  compared = _compared(diagnosis, site)
  rows = [
    (label, compared[label, mended]) for label in role["remedies"] if (label, mended) in compared
  ]
  if not rows:
    return None
  parts = []
  for sign, kind in (
    (1, "clearly more with"),
    (-1, "clearly less with"),
    (0, "not clearly more or less with"),
  ):
    listed = [
      f"{reading.title(diagnosis, label)} ({_size(found)})"
      for label, found in rows
      if _sign(found) == sign
    ]
    parts += [f"{kind} {', '.join(listed)}"] if listed else []
  return f"Against “{reading.title(diagnosis, mended)}”, in {SITES[site]}: {'; '.join(parts)}."


def _halves(diagnosis):
  site = _answering(diagnosis)
  found = _compared(diagnosis, site).get(("popular_half", "unpopular_half"))
  if found is None:
    return None
  kind = {
    -1: "attends clearly less to the subject than",
    0: "attends to the subject not clearly more or less than",
    1: "attends clearly more to the subject than",
  }[_sign(found)]
  names = [f"“{reading.title(diagnosis, label)}”" for label in ("popular_half", "unpopular_half")]
  return f"{names[0]} {kind} {names[1]} in {SITES[site]} ({_size(found)})."


def _where_lost(diagnosis):
  label = reading.roles(diagnosis)["finetuned"]
  site = _answering(diagnosis)
  found = {
    name: estimate(diagnosis, label, site, "change", name)
    for name in ("lost", "kept", "lost_minus_kept")
  }
  if None in found.values():
    return None
  kind = {
    -1: "it is clearly lower where answers were lost",
    0: "no clear difference",
    1: "it is clearly higher where answers were lost",
  }[_sign(found["lost_minus_kept"])]
  name = reading.title(diagnosis, label)
  return (
    f"The change in {SITES[site]} is {_size(found['lost'])} where “{name}” lost a right answer and "
    f"{_size(found['kept'])} where it kept it: {kind} ({_size(found['lost_minus_kept'])})."
  )


def tables_of(diagnosis):
  """dict caption -> table as HTML: levels of all arms, changes, attention by answers; none without rows."""
  found = {
    "attention": _levels(diagnosis),
    "attention_changes": _changes(diagnosis),
    "attention_answers": _answers(diagnosis),
  }
  return {key: table for key, table in found.items() if table}


def _levels(diagnosis):
  def at(site, *path):
    return lambda label: estimate(diagnosis, label, site, *path)

  def short(found):
    return cell(found, ratio)

  columns = []
  for site in sites(diagnosis):
    columns += [
      (_heading(site).replace("-", "-<br>"), at(site, "mass"), cell),
      ("Change", at(site, "change", "mass"), difference),
      ("Of<br>uniform", at(site, "share_of_uniform"), short),
      *((head, at(site, name), short) for name, head in HEADS.items()),
    ]
  shown = [column for column in columns if any(column[1](label) for label in labels(diagnosis))]
  rows = [
    [text(reading.title(diagnosis, label)), *(write(get(label)) for _, get, write in shown)]
    for label in labels(diagnosis)
  ]
  return rows and tables.table(["Arm", *(head for head, _, _ in shown)], rows)


def _changes(diagnosis):
  """Changes against the reference arm, then the pairs compared besides; the bar is drawn of the answering site."""
  there = sites(diagnosis)
  found = _blocks(diagnosis)
  if not found:
    return None

  def get(pair, site, name):
    return reading.clean(found[pair].get(site, {}).get(name))

  main = there[-1]
  span = spread(
    [get(pair, main, "mass") for pair in found] + [{"low": 0.0, "high": 0.0, "mean": 0.0}]
  )
  names = [name for name in HEADS if any(get(pair, main, name) for pair in found)]
  rows = [
    [
      *(text(reading.title(diagnosis, label)) for label in pair),
      *(difference(get(pair, site, "mass")) for site in there),
      bar(get(pair, main, "mass"), span, 0.0),
      *(difference(get(pair, main, name)) for name in names),
      text(found[pair].get(main, {}).get("seeds_same_sign") or "–"),
    ]
    for pair in found
  ]
  return tables.table(
    [
      "Arm",
      "against",
      *map(_heading, there),
      "",
      *(HEADS[name] for name in names),
      "Seeds of<br>same sign",
    ],
    rows,
    "pairs",
  )


def _blocks(diagnosis):
  """dict (arm, against) -> dict site -> its differences, of arms of the table."""
  here = labels(diagnosis)
  other = reference(diagnosis)
  found = {}
  for label in here if other is not None else ():
    found[label, other] = {site: _at(diagnosis, label, site, "change") for site in sites(diagnosis)}
  for row in _part(diagnosis).get("comparisons") or []:
    if {row.get("arm"), row.get("against")} <= set(here):
      found.setdefault((row["arm"], row["against"]), {})[row.get("site")] = row
  found = {
    pair: {
      site: block for site, block in by_site.items() if block and reading.clean(block.get("mass"))
    }
    for pair, by_site in found.items()
  }
  return {pair: by_site for pair, by_site in found.items() if by_site}


def _answers(diagnosis):
  site = _answering(diagnosis)
  columns = [
    ("Right", ("right",), cell),
    ("Wrong", ("wrong",), cell),
    ("Change where<br>lost", ("change", "lost"), difference),
    ("Change where<br>kept", ("change", "kept"), difference),
    ("Lost minus<br>kept", ("change", "lost_minus_kept"), difference),
  ]
  rows = []
  for label in labels(diagnosis):
    found = [estimate(diagnosis, label, site, *path) for _, path, _ in columns]
    if any(found):
      rows.append(
        [
          text(reading.title(diagnosis, label)),
          *(write(one) for one, (_, _, write) in zip(found, columns)),
        ]
      )
  return rows and tables.table(["Arm", *(head for head, _, _ in columns)], rows)


def draw(diagnosis):
  """dict picture -> list of panels: changes by layer and head, attention by popularity and along curves."""
  if not labels(diagnosis):
    return {}
  found = {key: [] for key in PICTURES}
  with plots._settings():
    for site in sites(diagnosis):
      found["attention_heads"] += _head_panels(diagnosis, site)
      found["attention_popularity"] += _popularity(diagnosis, site)
      found["attention_curves"] += [
        panel for kind in AXES for panel in _curves(diagnosis, site, kind)
      ]
  return {key: panels for key, panels in found.items() if panels}


def _drawn(diagnosis, most=9):
  """Labels that are drawn, in the table's order: those that play a part, then those compared bin by bin."""
  role = reading.roles(diagnosis)
  there = labels(diagnosis)
  wanted = dict.fromkeys(
    [role["zero_shot"], role["finetuned"], *role["remedies"], *plots.main_arms(diagnosis)]
  )
  drawn = [label for label in wanted if label in there][:most] or there[:most]
  return sorted(drawn, key=there.index)


def _looks(diagnosis):
  """dict label -> (colour, marker, line) of what is drawn, the same in all pictures; zero-shot is grey without one."""
  return plots.styles(
    [label for label in _drawn(diagnosis) if label != reading.roles(diagnosis)["zero_shot"]]
  )


def _table(diagnosis, label, site):
  """Change of attention by layer and head as a list of lists, or None where it is missing or has gaps."""
  found = _at(diagnosis, label, site, "change", "by_head", "mean")
  rows = found if isinstance(found, list) and all(isinstance(row, list) for row in found) else []
  whole = rows and rows[0] and len({len(row) for row in rows}) == 1
  return (
    rows
    if whole and all(reading.number(value) is not None for row in rows for value in row)
    else None
  )


def _head_panels(diagnosis, site):
  found = {label: _table(diagnosis, label, site) for label in _drawn(diagnosis)}
  found = {label: rows for label, rows in found.items() if rows}
  sizes = sorted(abs(value) for rows in found.values() for row in rows for value in row)
  if not sizes:
    return []
  # A few heads may change far more than all others, which would then look alike.
  beyond = len(sizes) > MOST_NUMBERS * len(found)
  limit = sizes[int(0.99 * (len(sizes) - 1))] if beyond else sizes[-1]
  return [
    _head_panel(diagnosis, label, site, rows, limit or 1e-3, beyond)
    for label, rows in found.items()
  ]


def _head_panel(diagnosis, label, site, rows, limit, beyond):
  from matplotlib.colors import LinearSegmentedColormap

  layers = len(rows)
  heads = len(rows[0])
  figure, axes = plots._figure(4.0, min(4.2, 1.5 + max(0.3 * layers, 0.09 * layers + 0.8)))
  colours = LinearSegmentedColormap.from_list("change", [plots.VERMILION, "#ffffff", plots.BLUE])
  image = axes.imshow(
    rows, cmap=colours, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
  )
  axes.grid(False)
  for ticks, count in ((axes.set_xticks, heads), (axes.set_yticks, layers)):
    every = max(1, -(-count // 8))
    ticks(range(0, count, every), [str(place + 1) for place in range(0, count, every)])
  if layers * heads <= MOST_NUMBERS:
    for y, row in enumerate(rows):
      for x, value in enumerate(row):
        axes.text(
          x,
          y,
          share(value, True),
          ha="center",
          va="center",
          fontsize=9 if heads <= 6 else 7.5,
          color="white" if value > 0.6 * limit else plots.BLACK,
        )
  title = reading.title(diagnosis, label)
  axes.set(
    xlabel="Head", ylabel="Layer", title=f"{plots._wrap(title, 36)}\n{_heading(site).lower()}"
  )
  colour_bar = figure.colorbar(image, ax=axes, extend="both" if beyond else "neither")
  colour_bar.ax.tick_params(labelsize=8)
  colour_bar.outline.set_visible(False)
  return plots._panel(
    figure,
    f"attention_{site}_{plots._file_name(label)}",
    f"{title}: change of attention to the subject in {SITES[site]} by layer and head",
  )


def _popularity(diagnosis, site):
  """Attention by quarters of popularity, and its change where there is a reference, whose line is then at 0."""
  levels = {label: _quarters(diagnosis, label, site) for label in _drawn(diagnosis)}
  changes = {label: _quarters(diagnosis, label, site, "change") for label in levels}
  if any(changes.values()):
    other = reference(diagnosis)
    changes |= {other: [(row, _NOTHING) for row, _ in levels[other]]} if levels.get(other) else {}
  panels = []
  for key, found, axis in (
    ("popularity", levels, "Attention to the subject"),
    ("popularity_change", changes, _CHANGE),
  ):
    found = {label: rows for label, rows in found.items() if rows}
    alt = f"{axis} in {SITES[site]} by the subject's popularity, a line for each arm"
    panels += (
      [
        plots._popularity_panel(
          diagnosis, found, _looks(diagnosis), f"attention_{key}_{site}", axis, _heading(site), alt
        )
      ]
      if found
      else []
    )
  return panels


def _quarters(diagnosis, label, site, *path):
  """[(row with low and high popularity, estimate)] of the levels of an arm, or of its change."""
  rows = _at(diagnosis, label, site, *path, "by_popularity") or []
  return [(row, reading.clean(row.get("mass"))) for row in rows if reading.clean(row.get("mass"))]


def _curves(diagnosis, site, kind):
  """One panel against steps or alpha of arms with several points: the change, or attention if there is no reference."""
  other = reference(diagnosis)
  path = ("mass",) if other is None else ("change", "mass")
  found = {
    label: [
      (x, estimate(diagnosis, point, site, *path))
      for x, point, _ in reading.curve(diagnosis, kind, label)
    ]
    for label in _looks(diagnosis)
  }
  found = {label: [row for row in rows if row[1]] for label, rows in found.items()}
  found = {label: rows for label, rows in found.items() if len(rows) > 1}
  if not found:
    return []
  axis = "Attention to the subject" if other is None else _CHANGE
  figure, axes = plots._figure(4.2, 3.8)
  for label, rows in found.items():
    plots._line(
      axes, rows, _looks(diagnosis)[label], plots._wrap(reading.title(diagnosis, label), 28)
    )
  plots._level(axes, other and _NOTHING, plots._wrap(reading.title(diagnosis, other), 28))
  if kind == "steps":
    plots._step_axis(axes, sorted({x for rows in found.values() for x, _ in rows}))
  else:
    axes.set_xlabel("alpha (0: before finetuning, 1: finetuned)")
  axes.set(title=_heading(site), ylabel=axis)
  plots._legend(figure, axes)
  return [
    plots._panel(
      figure,
      f"attention_{kind}_{site}",
      f"{axis} in {SITES[site]} against {AXES[kind]}, a line for each arm",
    )
  ]
