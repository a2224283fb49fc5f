"""Lines for the terminal of scores by the LM-KBC rules."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from factshock.diagnosis.table import WIDTH, estimate, fitted, wrapped

Json: TypeAlias = Mapping[str, Any]

TITLES = {"rows": "F1 over rows", "relations": "F1 over relations", "micro": "micro F1"}
BASELINES = {"all_empty": "(all empty)", "constant_set": "(constant set)"}
COUNTS = {
  "missing": "gold rows missing, scored as empty answers",
  "unknown": "rows that gold does not have, left out",
  "repeated": "rows given again, of which the last counts",
  "dropped": "objects that are no text, dropped",
}


def lines(scores: Json, width: int | None = WIDTH) -> list[str]:
  """Returns lines of scores, empty answers, relations, differences, and of what was odd.

  Args:
    scores: as from `lm_kbc.diagnose`.
    width: columns of the terminal, into which the first columns of each table go; None for all.
  """
  answers: dict[str, Json] = dict(scores["systems"])
  for name, baseline in scores["baselines"].items():
    answers[BASELINES[name]] = baseline
  strict = ", strict" if scores["strict"] else ""
  return [
    *wrapped(
      [
        f"LM-KBC {scores['edition']}{strict}: {scores['rows']} rows, {len(scores['relations'])} "
        f"relations of {scores['gold']} ({100 * scores['confidence']:g}% bootstrap intervals; *: "
        "ranked the edition's systems)"
      ]
    ),
    *fitted(_score_rows(answers, scores["headline"]), width),
    "",
    "Empty answers (rows of which gold, and of which the answer, has no object)",
    *fitted(_empty_rows(answers), width),
    "",
    "Relations (means over the rows of each)",
    *fitted(_relation_rows(answers, scores), width),
    "",
    "Paired differences",
    *fitted(_difference_rows(scores), width),
    *(wrapped(_remarks(scores), width) if width else _remarks(scores)),
  ]


def _score_rows(answers: Mapping[str, Json], headline: str) -> Iterator[list[str]]:
  titles: list[str] = []
  for average, title in TITLES.items():
    mark = " *" if average == headline else ""
    titles.append(title + mark)
  yield ["answers", "precision", "recall", *titles, "micro P", "micro R"]
  for label, scores in answers.items():
    headline_scores = scores[headline]
    micro_scores = scores["micro"]
    yield [
      label,
      estimate(headline_scores["precision"], False),
      estimate(headline_scores["recall"], False),
      *(estimate(scores[average]["f1"]) for average in TITLES),
      estimate(micro_scores["precision"], False),
      estimate(micro_scores["recall"], False),
    ]


def _empty_rows(answers: Mapping[str, Json]) -> Iterator[list[str]]:
  yield ["answers", "gold", "predicted", "both", "precision", "recall", "F1"]
  for label, scores in answers.items():
    empty = scores["empty"]
    yield [
      label,
      str(empty["gold"]),
      str(empty["predicted"]),
      str(empty["both"]),
      estimate(empty["precision"], False),
      estimate(empty["recall"], False),
      estimate(empty["f1"], False),
    ]


def _relation_rows(answers: Mapping[str, Json], scores: Json) -> Iterator[list[str]]:
  systems = list(scores["systems"])
  baselines = [label for label in answers if label not in systems]
  titles: list[str] = []
  for label in systems:
    titles += ["P", "R", f"F1 {label}", "objects", "empty"]
  titles += [f"F1 {label}" for label in baselines]
  yield ["relation", "rows", "gold objects", "gold empty", *titles]
  for relation in scores["relations"]:
    rows: dict[str, Json] = {}
    for label, answer in answers.items():
      rows[label] = answer["by_relation"][relation]
    gold = rows[baselines[0]]
    cells = [
      relation,
      str(gold["rows"]),
      str(gold["gold_objects"]),
      str(gold["gold_empty"]),
    ]
    for label in systems:
      cells += _system_cells(rows[label])
    for label in baselines:
      cells.append(f"{rows[label]['f1']:.3f}")
    yield cells


def _system_cells(row: Json) -> list[str]:
  return [
    f"{row['precision']:.3f}",
    f"{row['recall']:.3f}",
    f"{row['f1']:.3f}",
    str(row["objects"]),
    str(row["empty"]),
  ]


def _difference_rows(scores: Json) -> Iterator[list[str]]:
  yield ["comparison", *TITLES.values()]
  for row in scores["differences"]:
    yield [
      f"{row['system']} - {BASELINES[row['baseline']]}",
      *(estimate(row[average]) for average in TITLES),
    ]


def _remarks(scores: Json) -> list[str]:
  """Returns what did not fit, and what the constant set could not be fitted on, a line each."""
  remarks = [
    f"{label}: {system['counts'][name]} {text}"
    for label, system in scores["systems"].items()
    for name, text in COUNTS.items()
    if system["counts"][name]
  ]
  if scores["gold_repeated"]:
    remarks.append(f"gold: {scores['gold_repeated']} {COUNTS['repeated']}")
  train = scores["train"]
  if not train:
    remarks.append(
      f"no constant set: {scores['no_train']}; name the rows to fit it on with --train"
    )
  elif scores["unfitted"]:
    remarks.append(
      f"constant set: empty where {train} lacks the relation: {', '.join(scores['unfitted'])}"
    )
  if scores.get("train_overlap"):
    remarks.append(
      f"constant set: it has seen {scores['train_overlap']} of the gold rows, which {train} has too"
    )
  return ["", *remarks] if remarks else []
