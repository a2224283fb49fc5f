"""Samples of the lm-evaluation-harness (samples_TASK_DATE.jsonl, --log_samples) as predictions.

A row's `doc` gives the fact: subject, relation and object by our names or by those of PopQA and
LAMA; where it has none but a `question`, as most tasks do, the question is the subject, the task
the relation and the sample's target the object. Of choices the likeliest is the prediction (what
`acc` counts) and all are candidates; a generated text is the prediction after the task's filter.
"""

import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias, cast

from factshock.runtime.errors import UserError

JsonObject: TypeAlias = dict[str, Any]

NAMES = {
  "subject": ("subject", "subj", "sub_label"),
  "relation": ("relation", "prop", "predicate_id", "pred"),
  "object": ("object", "obj", "obj_label"),
}
ALIASES = ("aliases", "possible_answers", "answers")
CARRIED = ("subject_id", "object_id", "popularity")


def as_predictions(
  numbered_rows: Iterable[tuple[int, Any]], path: str
) -> Iterator[tuple[int, Any]]:
  """Returns the rows of a samples file as rows of a predictions file, those of others as they are.

  Rows of a filter other than "none" get the arm FILE/FILTER, as a task may have several.

  Args:
    numbered_rows: (line number, parsed line) pairs.
    path: the file, for messages and for the name of the task.

  Raises:
    UserError: a sample whose document tells no fact, or whose responses are neither a text nor
      log-probabilities of choices.
  """
  rows = iter(numbered_rows)
  first = next(rows, None)
  if first is None:
    return rows
  rows = itertools.chain([first], rows)
  if is_sample(first[1]):
    return _convert(rows, path)
  return rows


def is_sample(row: Any) -> bool:
  """Returns whether a row is one of a samples file."""
  return isinstance(row, dict) and "doc" in row and "filtered_resps" in row


def _convert(rows: Iterable[tuple[int, Any]], path: str) -> Iterator[tuple[int, JsonObject]]:
  name = os.path.basename(path)
  name = name.removesuffix(".gz").removesuffix(".jsonl")
  dated_task = name.removeprefix("samples_")
  task = re.sub(r"_\d{4}-\d\d-\d\dT[\d:.-]+$", "", dated_task)
  for line_number, sample in rows:
    context = f"{path}:{line_number}"
    if not is_sample(sample) or not isinstance(sample["doc"], dict):
      raise UserError(
        f"{context}: expected a sample with doc and filtered_resps, as in the lines before, got "
        f"{str(sample)[:60]}"
      )
    answer, choices = _answer(sample, context)
    fact = _fact(sample, task, choices, context)
    row = {**fact, **answer}
    filter_name = sample.get("filter", "none")
    if filter_name != "none":
      row["arm"] = f"{name}/{filter_name}"
    yield line_number, row


def _answer(sample: JsonObject, context: str) -> tuple[JsonObject, list[str] | None]:
  """Returns the columns of the answer, and the texts of the choices in their order or None."""
  responses = sample["filtered_resps"]
  if isinstance(responses, list) and responses and isinstance(responses[0], str):
    text = responses[0].strip()
    return {"prediction": text}, None
  texts = _choices(sample, context)
  scores = _choice_scores(responses, len(texts))
  has_all = len(scores) == len(texts) > 0
  if not has_all or any(map(math.isnan, scores)):
    raise UserError(
      f"{context}: expected a generated text or a log-probability of each choice in "
      f"filtered_resps, got {str(cast(Any, responses))[:80]}; tasks of other kinds are no "
      "predictions"
    )

  def falling(index: int) -> float:
    return -scores[index]

  best_first = sorted(range(len(texts)), key=falling)
  candidates = [[texts[index], scores[index]] for index in best_first]
  prediction, score = candidates[0]
  answer = {
    "prediction": prediction,
    "score": score,
    "candidates": candidates,
  }
  return answer, texts


def _choice_scores(responses: Any, count: int) -> list[float]:
  """Returns the log-probabilities of the first choices; none where some response has no number."""
  try:
    return [float(response[0]) for response in responses[:count]]
  except (TypeError, ValueError, IndexError, KeyError):
    return []


def _choices(sample: JsonObject, context: str) -> list[str]:
  """Returns the continuations of the document's own context, without the space before them."""
  arguments: Any = sample.get("arguments") or ()
  pairs = [_request_pair(request) for request in _requests(arguments)]
  if not pairs or not all(map(_is_continued, pairs)):
    raise UserError(
      f"{context}: expected a context and a continuation of each choice in arguments, got "
      f"{str(arguments)[:80]}"
    )
  own_context = pairs[0][0]  # others are the same choices without a context
  return [pair[1].strip() for pair in pairs if pair[0] == own_context]


def _is_continued(pair: tuple[Any, ...]) -> bool:
  return len(pair) >= 2 and isinstance(pair[1], str)


def _requests(arguments: Any) -> list[Any]:
  if isinstance(arguments, dict):
    return list(cast(JsonObject, arguments).values())
  return list(arguments)


def _request_pair(request: Any) -> tuple[Any, ...]:
  if isinstance(request, dict):
    return tuple(cast(JsonObject, request).values())
  return tuple(request)


def _fact(
  sample: JsonObject,
  task: str,
  choices: list[str] | None,
  context: str,
) -> JsonObject:
  document: JsonObject = sample["doc"]
  target = sample.get("target")
  fact: JsonObject = {name: _first_text(document, keys) for name, keys in NAMES.items()}
  if None in fact.values():
    fact = {
      "subject": document.get("question"),
      "relation": task,
      "object": _target_text(target, choices),
    }
  if not all(map(_is_filled_text, fact.values())):
    raise UserError(
      f"{context}: expected a document with subject, relation and object, or with a question and a "
      f"target that is a text or a choice; got {', '.join(map(str, document))} and the target "
      f"{str(target)[:60]!r}"
    )
  aliases = _aliases(document)
  if aliases:
    fact["aliases"] = aliases
  for name in CARRIED:
    if document.get(name) is not None:
      fact[name] = document[name]
  return fact


def _is_filled_text(value: Any) -> bool:
  return isinstance(value, str) and value != ""


def _first_text(document: JsonObject, keys: Iterable[str]) -> str | None:
  for key in keys:
    value = document.get(key)
    if isinstance(value, str):
      return value
  return None


def _target_text(target: Any, choices: list[str] | None) -> Any:
  """Returns the target itself, or of choices the one that it names by its index or its text."""
  if choices is None:
    return target
  if str(target).isdigit():
    index = int(target)
    if index < len(choices):
      return choices[index]
  if target in choices:
    return target
  return None


def _aliases(document: JsonObject) -> list[str] | None:
  for name in ALIASES:
    texts = _text_list(document.get(name))
    if texts:
      return texts
  return None


def _text_list(value: Any) -> list[str] | None:
  """Returns a list of texts, written as JSON or not; None for anything else."""
  if isinstance(value, str):
    try:
      value = json.loads(value)
    except ValueError:
      return None
  if not isinstance(value, list):
    return None
  items = cast(list[Any], value)
  if all(isinstance(item, str) for item in items):
    return items
  return None
