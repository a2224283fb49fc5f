"""The pictures of the one-layer theory's page: storage, updates, finetuning, and where the harm begins."""

from factshock.report import canvas
from factshock.report.canvas import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION

SETS = {
  "popular": ("Popular half", (BLUE, "s", "-")),
  "unpopular": ("Unpopular half", (VERMILION, "o", "-")),
  "random": ("Random half", (ORANGE, "v", "--")),
  "whole": ("Whole pool", (BLACK, "X", "-")),
  "high_salience": ("Best stored fifth", (SKY, "D", "-.")),
  "low_salience": ("Least stored fifth", (PURPLE, "P", ":")),
}
_MEASURES = {
  "accuracy": "Share right",
  "attention": "Attention to the subject",
  "common": "Share of answers that are\nthe most common one",
}


def draw(found):
  """dict picture -> list of panels, of what theory.json holds; empty where a part was left out."""
  with canvas.settings():
    return {
      "storage": [_storage(found), _updates(found)],
      "steps": _curves(found, "sets", "Relation's own token"),
      "question": _curves(found, "question_sets", "Question's own token"),
      "popularity": _by_popularity(found),
      "phases": _phases(found),
      "stored": _stored(found),
    }


def _storage(found):
  """Salience against how often the corpus states a fact, tenths of subjects, and the closed form."""
  figure, axes = canvas.new_figure(4.4, 3.7)
  rows = found["stored_by_popularity"]
  counts = [row["mean"] for row in rows["count"]]
  canvas.line(axes, list(zip(counts, rows["salience"])), (BLUE, "s", "-"), "Trained W_V")
  canvas.line(
    axes, list(zip(counts, rows["closed_form"])), (GREY, "", "--"), "Closed form of a subject alone"
  )
  axes.set_xscale("log")
  for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
    which(lambda value, _: f"{value:g}" if f"{value:g}"[0] in "125" else "")
  axes.tick_params(axis="x", which="minor", labelsize=9)
  axes.set(
    title="Salience grows with frequency",
    xlabel="Times the corpus states a fact (log)",
    ylabel="Salience S(s, r, a), in logits",
  )
  canvas.legend(figure, axes)
  return canvas.panel(
    figure, "storage", "Salience against the frequency of facts: trained, and by the closed form"
  )


def _updates(found):
  """Share of facts whose update raises attention to the subject, by tenth of salience."""
  figure, axes = canvas.new_figure(4.4, 3.7)
  rows = found["updates"]
  canvas.line(
    axes,
    list(zip([row["mean"] for row in rows["salience"]], rows["positive"])),
    (VERMILION, "o", "-"),
    "Facts, by tenth of salience",
  )
  axes.axhline(0.5, color=BLACK, linewidth=0.9)
  axes.set(
    title="The update's sign follows salience",
    xlabel="Salience (mean of the tenth)",
    ylim=(-0.02, 1.02),
    ylabel="Share of facts that turn\nattention to the subject",
  )
  canvas.legend(figure, axes)
  return canvas.panel(
    figure,
    "updates",
    "Share of facts whose gradient raises attention to the subject, against their salience",
  )


def _curves(found, key, title):
  return [_curve(found[key], key, measure, words, title) for measure, words in _MEASURES.items()]


def _curve(sets, key, measure, words, title):
  figure, axes = canvas.new_figure(4.2, 3.9)
  for name, (label, style) in SETS.items():
    if name in sets:
      canvas.line(axes, list(zip(sets["steps"], sets[name][measure])), style, label)
  canvas.step_axis(axes, sets["steps"])
  axes.set(title=title, ylabel=words)
  canvas.legend(figure, axes)
  return canvas.panel(
    figure,
    f"{key}_{measure}",
    f"{words} on subjects that were not finetuned on, against finetuning steps. {title}",
  )


def _by_popularity(found):
  """Share right by tenth of test subjects, before finetuning and after each half, with either token."""
  panels = []
  for key, title in (("sets", "Relation's own token"), ("question_sets", "Question's own token")):
    figure, axes = canvas.new_figure(4.4, 3.8)
    rows = {
      "before": ("Before finetuning", (GREY, "", "--")),
      **{name: SETS[name] for name in ("popular", "unpopular")},
    }
    for name, (label, style) in rows.items():
      canvas.line(axes, list(enumerate(found[key][name]["by_popularity"], 1)), style, label)
    tenths = len(found[key]["before"]["by_popularity"])
    axes.set(
      title=title,
      xlabel="Tenth of test subjects, most popular first",
      ylabel=_MEASURES["accuracy"],
      xticks=range(1, tenths + 1),
    )
    canvas.legend(figure, axes)
    panels.append(
      canvas.panel(
        figure, f"{key}_popularity", f"Share right by popularity of the subject. {title}"
      )
    )
  return panels


def _phases(found):
  """Heat maps of gap and harm, Zipf exponent by steps, a panel for each size of the finetuning set."""
  cells = found.get("phases") or []
  sizes, exponents = (sorted({cell[key] for cell in cells}) for key in ("size", "zipf"))
  by_place = {(cell["zipf"], cell["size"]): cell for cell in cells}
  panels = []
  for measure, words in (
    ("gap", "Popular less unpopular half"),
    ("harm", "Before less after unpopular half"),
  ):
    limit = max((abs(found["mean"]) for cell in cells for found in cell[measure]), default=0) or 1
    for size in sizes:
      rows = [by_place[exponent, size][measure] for exponent in exponents]
      panels.append(
        _heat(
          rows,
          exponents,
          found["phase_steps"],
          limit,
          f"{words}, {size} subjects",
          f"phases_{measure}_{size}",
        )
      )
  return panels


def _heat(rows, exponents, steps, limit, title, name):
  figure, axes = canvas.new_figure(4.2, 3.4)
  image = axes.imshow(
    [[found["mean"] for found in row] for row in rows],
    cmap="RdBu_r",
    vmin=-limit,
    vmax=limit,
    aspect="auto",
  )
  for y, row in enumerate(rows):
    for x, found in enumerate(row):
      clear = None not in (found["low"], found["high"]) and (found["low"] > 0 or found["high"] < 0)
      axes.text(
        x,
        y,
        f"{100 * found['mean']:+.1f}",
        ha="center",
        va="center",
        fontsize=9,
        fontweight="bold" if clear else "normal",
        color="white" if abs(found["mean"]) > 0.65 * limit else BLACK,
        alpha=1 if clear else 0.55,
      )
  axes.set_xticks(range(len(steps)), steps)
  axes.set_yticks(range(len(exponents)), [f"{x:g}" for x in exponents])
  axes.grid(False)
  axes.set(title=title, xlabel="Finetuning steps", ylabel="Zipf exponent of subjects")
  figure.colorbar(
    image, ax=axes, shrink=0.9, format=lambda value, _: f"{100 * value:+.0f}"
  ).outline.set_visible(False)
  return canvas.panel(
    figure,
    name,
    f"{title}: difference in share right, in points, by Zipf exponent and finetuning steps",
  )


def _stored(found):
  """Gap of accuracy, and change of attention by each set, against how much the model knew before finetuning."""
  rows = found.get("stored")
  if not rows:
    return []
  known = [row["before"]["mean"] for row in rows]
  figure, axes = canvas.new_figure(4.4, 3.7)
  canvas.line(
    axes,
    [(x, row["gap"]) for x, row in zip(known, rows)],
    (GREEN, "^", "-"),
    "Popular less unpopular half",
  )
  _known_axes(figure, axes, "The gap in accuracy", "Difference in share right")
  panels = [
    canvas.panel(
      figure,
      "stored_gap",
      "Gap in accuracy of the two halves against the share of facts known before finetuning",
    )
  ]
  figure, axes = canvas.new_figure(4.4, 3.7)
  for name in rows[0]["attention"]:
    label, style = SETS[name]
    canvas.line(axes, [(x, row["attention"][name]) for x, row in zip(known, rows)], style, label)
  _known_axes(figure, axes, "Attention to subjects not finetuned on", "Change by finetuning")
  return panels + [
    canvas.panel(
      figure,
      "stored_attention",
      "Change of attention by finetuning set against the share of facts known before",
    )
  ]


def _known_axes(figure, axes, title, words):
  axes.axhline(0, color=BLACK, linewidth=0.9)
  axes.set(title=title, xlabel="Share right before finetuning", ylabel=words)
  canvas.legend(figure, axes)
