"""Reads the lm-evaluation-harness's samples_TASK_DATE.jsonl (--log_samples) as rows of a predictions file.

A row's `doc` gives the fact: subject, relation and object by our names or by those of PopQA and LAMA; where
it has none but a `question`, as most tasks do, the question is the subject, the task the relation and the
sample's target the object. Of choices the likeliest is the prediction (what `acc` counts) and all are
candidates; a generated text is the prediction after the task's filter.
"""

import itertools
import json
import os
import re

from factshock.runtime.errors import UserError

NAMES = {
  "subject": ("subject", "subj", "sub_label"),
  "relation": ("relation", "prop", "predicate_id", "pred"),
  "object": ("object", "obj", "obj_label"),
}
ALIASES = ("aliases", "possible_answers", "answers")
CARRIED = ("subject_id", "object_id", "popularity")


def as_predictions(numbered_rows, path):
  """(line number, row of a predictions file) pairs of a samples file; those of any other file as they are.

  Rows of a filter other than "none" get the arm FILE/FILTER, as a task may have several.

  Raises:
    UserError: a sample whose document tells no fact, or whose responses are neither a text nor log-probabilities of
      choices.
  """
  rows = iter(numbered_rows)
  first = next(rows, None)
  if first is None:
    return rows
  rows = itertools.chain([first], rows)
  return _converted(rows, path) if is_sample(first[1]) else rows


def is_sample(row):
  """Whether a row is one of a samples file."""
  return isinstance(row, dict) and "doc" in row and "filtered_resps" in row


def _converted(rows, path):
  name = os.path.basename(path).removesuffix(".gz").removesuffix(".jsonl")
  task = re.sub(r"_\d{4}-\d\d-\d\dT[\d:.-]+$", "", name.removeprefix("samples_"))
  for number, row in rows:
    place = f"{path}:{number}"
    if not is_sample(row) or not isinstance(row["doc"], dict):
      raise UserError(
        f"{place}: expected a sample with doc and filtered_resps, as in the lines before, got "
        f"{str(row)[:60]}"
      )
    answer, choices = _answer(row, place)
    found = {**_fact(row, task, choices, place), **answer}
    if row.get("filter", "none") != "none":
      found["arm"] = f"{name}/{row['filter']}"
    yield number, found


def _answer(row, place):
  """(columns prediction, and of choices score and candidates; the texts of the choices in their order or None)."""
  responses = row["filtered_resps"]
  if isinstance(responses, list) and responses and isinstance(responses[0], str):
    return {"prediction": responses[0].strip()}, None
  texts = _choices(row, place)
  try:
    scores = [float(response[0]) for response in responses[: len(texts)]]
  except (TypeError, ValueError, IndexError, KeyError):
    scores = []
  if len(scores) != len(texts) or not scores or any(score != score for score in scores):
    raise UserError(
      f"{place}: expected a generated text or a log-probability of each choice in filtered_resps, got "
      f"{str(responses)[:80]}; tasks of other kinds are no predictions"
    )
  ranked = [
    [texts[which], scores[which]]
    for which in sorted(range(len(texts)), key=lambda which: -scores[which])
  ]
  return {"prediction": ranked[0][0], "score": ranked[0][1], "candidates": ranked}, texts


def _choices(row, place):
  """The continuations of the document's own context, without the space before them."""
  arguments = row.get("arguments") or ()
  pairs = [
    tuple(each.values()) if isinstance(each, dict) else tuple(each)
    for each in (arguments.values() if isinstance(arguments, dict) else arguments)
  ]
  if not pairs or any(len(pair) < 2 or not isinstance(pair[1], str) for pair in pairs):
    raise UserError(
      f"{place}: expected a context and a continuation of each choice in arguments, got "
      f"{str(arguments)[:80]}"
    )
  return [
    pair[1].strip() for pair in pairs if pair[0] == pairs[0][0]
  ]  # others are the same choices without a context


def _fact(row, task, choices, place):
  doc = row["doc"]
  found = {
    name: next((doc[key] for key in keys if isinstance(doc.get(key), str)), None)
    for name, keys in NAMES.items()
  }
  if None in found.values():
    found = {
      "subject": doc.get("question"),
      "relation": task,
      "object": _target(row.get("target"), choices),
    }
  if not all(isinstance(text, str) and text for text in found.values()):
    raise UserError(
      f"{place}: expected a document with subject, relation and object, or with a question and a target "
      f"that is a text or a choice; got {', '.join(map(str, doc))} and the target "
      f"{str(row.get('target'))[:60]!r}"
    )
  aliases = next((names for names in map(_texts, map(doc.get, ALIASES)) if names), None)
  return {
    **found,
    **({"aliases": aliases} if aliases else {}),
    **{name: doc[name] for name in CARRIED if doc.get(name) is not None},
  }


def _target(target, choices):
  if choices is None:
    return target
  number = int(target) if str(target).isdigit() else -1
  return choices[number] if 0 <= number < len(choices) else target if target in choices else None


def _texts(value):
  """A list of texts, written as JSON or not; None for anything else."""
  if isinstance(value, str):
    try:
      value = json.loads(value)
    except ValueError:
      return None
  return value if isinstance(value, list) and all(isinstance(text, str) for text in value) else None
