"""Scores by the LM-KBC rules as lines for the terminal."""

from factshock.diagnosis.table import aligned, estimate

TITLES = {"rows": "F1 over rows", "relations": "F1 over relations", "micro": "micro F1"}
BASELINES = {"all_empty": "(all empty)", "constant_set": "(constant set)"}
COUNTS = {
  "missing": "gold rows missing, scored as empty answers",
  "unknown": "rows that gold does not have, left out",
  "repeated": "rows given again, of which the last counts",
  "dropped": "objects that are no text, dropped",
}


def lines(found):
  """Lines of what `lm_kbc.diagnose` gives: scores, empty answers, relations, differences, and what was odd."""
  answers = {
    **found["systems"],
    **{BASELINES[name]: scores for name, scores in found["baselines"].items()},
  }
  strict = ", strict" if found["strict"] else ""
  return [
    f"LM-KBC {found['edition']}{strict}: {found['rows']} rows, {len(found['relations'])} relations of "
    f"{found['gold']} ({100 * found['confidence']:g}% bootstrap intervals; *: ranked the edition's systems)",
    *aligned(_scores(answers, found["headline"])),
    "",
    "Empty answers (rows of which gold, and of which the answer, has no object)",
    *aligned(_empty(answers)),
    "",
    "Relations (means over the rows of each)",
    *aligned(_relations(answers, found)),
    "",
    "Paired differences",
    *aligned(_differences(found)),
    *_remarks(found),
  ]


def _scores(answers, headline):
  averages = {
    average: title + (" *" if average == headline else "") for average, title in TITLES.items()
  }
  yield ["answers", "precision", "recall", *averages.values(), "micro P", "micro R"]
  for label, scores in answers.items():
    yield [
      label,
      *(estimate(scores[headline][name], False) for name in ("precision", "recall")),
      *(estimate(scores[average]["f1"]) for average in averages),
      *(estimate(scores["micro"][name], False) for name in ("precision", "recall")),
    ]


def _empty(answers):
  yield ["answers", "gold", "predicted", "both", "precision", "recall", "F1"]
  for label, scores in answers.items():
    empty = scores["empty"]
    yield [
      label,
      *(str(empty[name]) for name in ("gold", "predicted", "both")),
      *(estimate(empty[name], False) for name in ("precision", "recall", "f1")),
    ]


def _relations(answers, found):
  labels = [
    f"{name} {label}" if name == "F1" else name
    for label in found["systems"]
    for name in ("P", "R", "F1", "objects", "empty")
  ]
  baselines = [label for label in answers if label not in found["systems"]]
  yield [
    "relation",
    "rows",
    "gold objects",
    "gold empty",
    *labels,
    *(f"F1 {label}" for label in baselines),
  ]
  for relation in found["relations"]:
    rows = {label: scores["by_relation"][relation] for label, scores in answers.items()}
    gold = rows[baselines[0]]
    yield [
      relation,
      str(gold["rows"]),
      str(gold["gold_objects"]),
      str(gold["gold_empty"]),
      *(text for label in found["systems"] for text in _of_relation(rows[label])),
      *(f"{rows[label]['f1']:.3f}" for label in baselines),
    ]


def _of_relation(scores):
  return [
    *(f"{scores[name]:.3f}" for name in ("precision", "recall", "f1")),
    str(scores["objects"]),
    str(scores["empty"]),
  ]


def _differences(found):
  yield ["comparison", *TITLES.values()]
  for row in found["differences"]:
    yield [
      f"{row['system']} - {BASELINES[row['baseline']]}",
      *(estimate(row[average]) for average in TITLES),
    ]


def _remarks(found):
  """What did not fit, and what the constant set could not be fitted on, a line each."""
  said = [
    f"{label}: {scores['counts'][name]} {text}"
    for label, scores in found["systems"].items()
    for name, text in COUNTS.items()
    if scores["counts"][name]
  ]
  if found["gold_repeated"]:
    said.append(f"gold: {found['gold_repeated']} {COUNTS['repeated']}")
  if not found["train"]:
    said.append(f"no constant set: {found['no_train']}; name the rows to fit it on with --train")
  elif found["unfitted"]:
    said.append(
      f"constant set: empty where {found['train']} lacks the relation: {', '.join(found['unfitted'])}"
    )
  if found.get("train_overlap"):
    said.append(
      f"constant set: it has seen {found['train_overlap']} of the gold rows, which {found['train']} has too"
    )
  return ["", *said] if said else []
