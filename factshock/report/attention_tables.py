"""Tables of a diagnosis's attention as HTML: levels, changes, and attention by answers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from factshock.report import attention, markup, numbers, reading
from factshock.report.attention import HEADS
from factshock.report.markup import bar, cell, difference, text
from factshock.report.numbers import ZERO, KnownEstimate, known_estimate, ratio, span_of
from factshock.report.schema import Diagnosis

# An arm and the one it is compared with.
Pair = tuple[str, str]
# Measures by site.
Blocks = dict[str, dict[str, Any]]


class _Column(NamedTuple):
  """Column of estimates: its head, its site, the keys of its measure, and how it is written."""

  head: str
  site: str
  path: tuple[str, ...]
  write: Callable[[KnownEstimate | None], str]


def tables(diagnosis: Diagnosis) -> dict[str, str]:
  """Returns the tables that have rows, by the name of their caption."""
  by_caption = {
    "attention": _levels(diagnosis),
    "attention_changes": _changes(diagnosis),
    "attention_answers": _by_answers(diagnosis),
  }
  return {caption: table for caption, table in by_caption.items() if table}


def _in_figures(estimate: KnownEstimate | None) -> str:
  return cell(estimate, ratio)


def _levels(diagnosis: Diagnosis) -> str | None:
  columns = []
  for site in attention.sites(diagnosis):
    heading = attention.heading(site).replace("-", "-<br>")
    columns += [
      _Column(heading, site, ("mass",), cell),
      _Column("Change", site, ("change", "mass"), difference),
      _Column("Of<br>uniform", site, ("share_of_uniform",), _in_figures),
    ]
    for name, head in HEADS.items():
      columns.append(_Column(head, site, (name,), _in_figures))
  return _table_of_arms(diagnosis, columns, all_columns=False)


def _by_answers(diagnosis: Diagnosis) -> str | None:
  site = attention.answering_site(diagnosis)
  columns = [
    _Column("Right", site, ("right",), cell),
    _Column("Wrong", site, ("wrong",), cell),
    _Column("Change where<br>lost", site, ("change", "lost"), difference),
    _Column("Change where<br>kept", site, ("change", "kept"), difference),
    _Column("Lost minus<br>kept", site, ("change", "lost_minus_kept"), difference),
  ]
  return _table_of_arms(diagnosis, columns, all_columns=True)


def _table_of_arms(
  diagnosis: Diagnosis,
  columns: Sequence[_Column],
  all_columns: bool,
) -> str | None:
  """Returns a row for each arm with any number, or None; columns without one may be left out."""
  labels = attention.labels(diagnosis)
  estimates = {label: _estimates(diagnosis, label, columns) for label in labels}
  shown = []
  for index in range(len(columns)):
    is_known = any(of_arm[index] for of_arm in estimates.values())
    if all_columns or is_known:
      shown.append(index)
  rows = []
  for label, of_arm in estimates.items():
    if any(of_arm):
      title = text(reading.title(diagnosis, label))
      cells = [columns[index].write(of_arm[index]) for index in shown]
      rows.append([title, *cells])
  if not rows:
    return None
  heads = [columns[index].head for index in shown]
  return markup.table(["Arm", *heads], rows)


def _estimates(
  diagnosis: Diagnosis,
  label: str,
  columns: Sequence[_Column],
) -> list[KnownEstimate | None]:
  """Returns an arm's estimate in each column."""
  estimates = []
  for column in columns:
    estimate = attention.estimate(diagnosis, label, column.site, *column.path)
    estimates.append(estimate)
  return estimates


def _changes(diagnosis: Diagnosis) -> str | None:
  """Returns changes against the reference arm, then the pairs that are compared besides.

  The bar and the measures in logits are of the site that answers are read from.
  """
  by_pair = _difference_blocks(diagnosis)
  if not by_pair:
    return None
  sites = attention.sites(diagnosis)
  main = sites[-1]
  masses = [_measure(blocks, main, "mass") for blocks in by_pair.values()]
  bars = span_of([*masses, ZERO])
  names = []
  for name in HEADS:
    if any(_measure(blocks, main, name) for blocks in by_pair.values()):
      names.append(name)
  rows = []
  for pair, blocks in by_pair.items():
    at_main = blocks.get(main, {})
    titles = [reading.title(diagnosis, label) for label in pair]
    by_place = [_measure(blocks, site, "mass") for site in sites]
    in_logits = [_measure(blocks, main, name) for name in names]
    row = [
      *map(text, titles),
      *map(difference, by_place),
      bar(_measure(blocks, main, "mass"), bars, 0.0),
      *map(difference, in_logits),
      text(at_main.get("seeds_same_sign") or numbers.DASH),
    ]
    rows.append(row)
  head = [
    "Arm",
    "against",
    *map(attention.heading, sites),
    "",
    *(HEADS[name] for name in names),
    "Seeds of<br>same sign",
  ]
  return markup.table(head, rows, "pairs")


def _measure(
  blocks: Blocks,
  site: str,
  name: str,
) -> KnownEstimate | None:
  block = blocks.get(site, {})
  return known_estimate(block.get(name))


def _difference_blocks(diagnosis: Diagnosis) -> dict[Pair, Blocks]:
  """Returns the differences of each pair of arms of the table, by site; known ones alone."""
  labels = attention.labels(diagnosis)
  sites = attention.sites(diagnosis)
  reference = attention.reference(diagnosis)
  blocks: dict[Pair, dict[str, Any]] = {}
  if reference is not None:
    for label in labels:
      by_site = {}
      for site in sites:
        by_site[site] = attention.value_at(diagnosis, label, site, "change")
      blocks[label, reference] = by_site
  comparisons = attention.part(diagnosis).get("comparisons") or []
  for row in comparisons:
    if row.get("arm") in labels and row.get("against") in labels:
      pair = (row["arm"], row["against"])
      site = row.get("site", "")
      blocks.setdefault(pair, {})[site] = row
  known = {pair: _known_sites(by_site) for pair, by_site in blocks.items()}
  return {pair: by_site for pair, by_site in known.items() if by_site}


def _known_sites(by_site: dict[str, Any]) -> Blocks:
  known = {}
  for site, block in by_site.items():
    if block and known_estimate(block.get("mass")):
      known[site] = block
  return known
