"""The tables of the report as HTML; every text that comes from data is escaped here."""

import html
import json

from factshock.report import plots, reading
from factshock.report.reading import estimate, interval, number, ratio, share

GROUP_TITLES = {
  "baseline": "Baselines",
  "remedy": "Remedies",
  "control": "Controls",
  "which facts": "Which facts to finetune on",
  "": "Arms",
}


def text(value):
  """Any value as HTML text."""
  return html.escape(str(value), quote=True)


def table(head, rows, kind=""):
  """A table that scrolls sideways inside its own box; cells are HTML, a row of one string is a heading."""
  cells = "".join(f"<th scope=col>{cell}</th>" for cell in head)
  body = "".join(_row(row, len(head)) for row in rows)
  return (
    f'<div class="scroll" tabindex="0"><table class="{kind}"><thead><tr>{cells}</tr></thead>'
    f"<tbody>{body}</tbody></table></div>"
  )


def _row(row, width):
  if isinstance(row, str):
    return f'<tr class="part"><th scope=rowgroup colspan={width}><span>{row}</span></th></tr>'
  return (
    f"<tr><th scope=row>{row[0]}</th>" + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>"
  )


def cell(found, write=share):
  """An estimate as a number with its interval in small type below; a dash where there is none."""
  if found is None:
    return '<span class="none">–</span>'
  ends = interval(found, write)
  return f"{write(found['mean'])}" + (f"<small>{ends}</small>" if ends else "")


def arms(diagnosis):
  """The table of arms: share right in numbers and drawn, and every measure of shock; no empty columns."""
  labels = reading.table_labels(diagnosis)
  columns = [
    column
    for column in _columns(diagnosis)
    if any(column[1](label) is not None for label in labels)
  ]
  span = spread([estimate(diagnosis, label, "right") for label in labels])
  line = number(reading.mean(diagnosis, reading.roles(diagnosis)["zero_shot"], "right"))
  rows = []
  last = None
  for label in _by_group(diagnosis, labels):
    kind = reading.group(diagnosis, label)
    if kind != last and any(reading.group(diagnosis, other) for other in labels):
      rows.append(text(GROUP_TITLES.get(kind, kind)))
    last = kind
    found = estimate(diagnosis, label, "right")
    rows.append(
      [text(reading.title(diagnosis, label)), cell(found), bar(found, span, line)]
      + [_none() if get(label) is None else write(get(label)) for _, get, write in columns]
    )
  return table(
    ["Arm", reading.criterion(diagnosis).capitalize(), ""] + [head for head, _, _ in columns],
    rows,
    "arms",
  )


def _by_group(diagnosis, labels):
  kinds = list(dict.fromkeys(reading.group(diagnosis, label) for label in labels))
  return sorted(labels, key=lambda label: kinds.index(reading.group(diagnosis, label)))


def _columns(diagnosis):
  """[(heading, label -> value or None, value -> HTML)] after the share right."""

  def at(*path):
    return lambda label: estimate(diagnosis, label, *path)

  def short(found):
    return cell(found, ratio)

  ratios = [
    ("Ratio<br>" + text(words.lower()).replace(" ", "<br>"), at("shock", "ratio", name), short)
    for name, words in reading.GROUPS.items()
  ]
  return ratios + [
    ("Shock", at("shock", "shock"), short),
    ("Shock<br>slope", at("shock", "slope"), short),
    ("Total<br>variation", at("shock", "total_variation"), short),
    ("Known<br>kept", at("known_kept"), short),
    ("Gained<br>/ lost", lambda label: _flips(diagnosis, label), str),
    ("Chosen on<br>dev facts", lambda label: _selected(diagnosis, label), str),
  ]


def _flips(diagnosis, label):
  gained, lost = (reading.mean(diagnosis, label, "flips", name) for name in ("gained", "lost"))
  return None if gained is None or lost is None else f"{ratio(gained)} / {ratio(lost)}"


def _none():
  return '<span class="none">–</span>'


def _selected(diagnosis, label):
  """What was chosen on development facts, "alpha .4, .5", or None."""
  found = (diagnosis.get("selected") or {}).get(label)
  keys = dict.fromkeys(key for row in (found or {}).values() for key in row if key != "development")
  words = []
  for key in keys:
    values = [row[key] for row in found.values() if key in row]
    shown = values[:1] if len({json.dumps(value) for value in values}) == 1 else values
    written = ", ".join(f"{x:g}" if number(x) is not None else str(x) for x in shown)
    words.append(f"{text(key)}<br>{text(written)}")
  return "<br>".join(words) or None


def spread(found, margin=0.04):
  """The range of all intervals with a little room, for `bar`."""
  ends = [
    end for row in found if row for end in (row["low"], row["high"], row["mean"]) if end is not None
  ]
  if not ends:
    return 0.0, 1.0
  room = margin * (max(ends) - min(ends)) or 0.01
  return min(ends) - room, max(ends) + room


def bar(found, span, line=None):
  """A small inline drawing of an estimate and its interval; `line` is a reference value."""
  if found is None:
    return ""

  def place(value):
    return f"{3 + 84 * (value - span[0]) / (span[1] - span[0]):.1f}"

  parts = []
  if line is not None and span[0] <= line <= span[1]:
    parts.append(f'<line class="at" x1="{place(line)}" x2="{place(line)}" y1="0" y2="24"/>')
  if found["low"] is not None and found["high"] is not None:
    parts.append(
      f'<line class="ci" x1="{place(found["low"])}" x2="{place(found["high"])}" y1="12" y2="12"/>'
    )
  parts.append(f'<circle class="dot" cx="{place(found["mean"])}" cy="12" r="2.8"/>')
  return (
    '<svg class="bar" width="90" height="24" viewBox="0 0 90 24" aria-hidden="true">'
    f"{''.join(parts)}</svg>"
  )


def evidence(diagnosis):
  """The differences that a verdict rests on."""
  found = diagnosis["verdict"]
  name = {
    role: text(reading.title(diagnosis, found[role]))
    for role in ("reference", "finetuned", "corrected", "known")
    if found.get(role)
  }
  known = f" on facts that {name['known']} has right" if "known" in name else ""
  rows = [
    ("loss", f"{name['finetuned']} minus {name['reference']}"),
    ("prior", f"{name['corrected']} minus {name['finetuned']}"),
    ("access", f"{name['corrected']} minus {name['reference']}{known}"),
    ("knowledge", f"{name['finetuned']} minus {name['reference']} on the other facts"),
  ]
  heads = {
    "loss": "Loss or gain",
    "prior": "The prior",
    "access": "Access",
    "knowledge": "New knowledge",
  }
  estimates = {key: reading.clean(found["evidence"].get(key)) for key, _ in rows}
  return table(
    ["", "Compared", "Difference"],
    [[heads[key], words, difference(estimates[key])] for key, words in rows if estimates[key]],
    "pairs",
  )


def relations(diagnosis):
  """Share right in each relation and type of relation, for the arms that are drawn by popularity; None where there is one."""
  labels = [
    label for label in plots.main_arms(diagnosis) if diagnosis["arms"][label].get("by_relation")
  ]
  if not labels:
    return None
  head = ["Relation", *(text(reading.title(diagnosis, label)) for label in labels)]
  rows = [
    ["Mean of relations", *(cell(estimate(diagnosis, label, "macro_right")) for label in labels)]
  ]
  for key, heading in (
    ("by_type", "Mean of the relations of a type"),
    ("by_relation", "Relations"),
  ):
    names = dict.fromkeys(
      name for label in labels for name in diagnosis["arms"][label].get(key) or {}
    )
    rows += [heading] if names else []
    rows += [
      [
        text(reading.relation(diagnosis, name)),
        *(cell(estimate(diagnosis, label, key, name)) for label in labels),
      ]
      for name in names
    ]
  return table(head, rows, "relations")


def comparisons(diagnosis):
  """The paired comparisons; differences whose interval excludes 0 are bold."""
  points = set(reading.points(diagnosis))
  rows = [
    (row, reading.clean(row.get("difference")))
    for row in diagnosis.get("comparisons") or []
    if not {row.get("arm"), row.get("against")} & points
  ]
  span = spread([found for _, found in rows] + [{"low": 0.0, "high": 0.0, "mean": 0.0}])
  body = [
    [
      text(reading.title(diagnosis, row.get("arm"))),
      text(reading.title(diagnosis, row.get("against"))),
      difference(found),
      bar(found, span, 0.0),
      _p_value(row.get("mcnemar_p")),
      _count(row.get("wins")),
      _count(row.get("losses")),
      text(row.get("seeds_same_sign") or "–"),
    ]
    for row, found in rows
  ]
  return table(
    [
      "Arm",
      "against",
      "Difference",
      "",
      "McNemar p",
      "Only arm<br>right",
      "Only other<br>right",
      "Seeds of<br>same sign",
    ],
    body,
    "pairs",
  )


def difference(found):
  """A difference of two arms as HTML, bold where its interval excludes 0; a dash where there is none."""
  if found is None:
    return _none()
  clear = None not in (found["low"], found["high"]) and (found["low"] > 0 or found["high"] < 0)
  size = share(found["mean"], True)
  return (f"<b>{size}</b>" if clear else size) + f"<small>{interval(found)}</small>"


def _p_value(value):
  value = number(value)
  return _none() if value is None else "&lt; .001" if value < 0.001 else share(value)


def _count(value):
  value = number(value)
  return _none() if value is None else f"{value:,.0f}"


def extreme_entities(diagnosis, label, most=8):
  """(over, under): rows of `entities` with the largest surplus and deficit of predictions over gold."""
  rows = [
    (row["predicted"][label] - row["gold"], row)
    for row in diagnosis.get("entities") or []
    if (row.get("predicted") or {}).get(label) is not None and row.get("gold") is not None
  ]
  rows.sort(key=lambda pair: -pair[0])
  over = [row for surplus, row in rows[:most] if surplus > 0]
  under = [row for surplus, row in reversed(rows[-most:]) if surplus < 0]
  return over, under


def entities(diagnosis, label):
  """The most over- and under-predicted entities of an arm by name, beside the other arms drawn with it."""
  over, under = extreme_entities(diagnosis, label)
  others = [other for other in plots.pressure_arms(diagnosis) if other != label]
  seeds = len({row.get("seed") for row in diagnosis.get("entities") or []}) > 1
  head = ["Answer", "Gold"]
  head += [f"Predicted<br>{text(reading.title(diagnosis, arm))}" for arm in [label, *others]]
  head += ["In pre-<br>training", "In fine-<br>tuning", "Group", "Relation"]
  rows = []
  for name, some in (("Most over-predicted", over), ("Most under-predicted", under)):
    rows += (
      [name] + [_entity(diagnosis, row, [label, *others], seeds) for row in some] if some else []
    )
  return table(head + (["Seed"] if seeds else []), rows, "entities")


def _entity(diagnosis, row, labels, seeds):
  counts = [_count(row.get("pretraining")), _count(row.get("finetuning"))]
  predicted = [_count((row.get("predicted") or {}).get(label)) for label in labels]
  group = reading.GROUPS.get(row.get("group"), row.get("group") or "–")
  words = [text(group), text(reading.relation(diagnosis, row.get("relation", "")))] + (
    [text(row.get("seed"))] if seeds else []
  )
  gold = _count(row.get("gold"))
  return [text(row.get("entity")), gold, f"<b>{predicted[0]}</b>", *predicted[1:], *counts, *words]
