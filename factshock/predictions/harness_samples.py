"""Samples of the lm-evaluation-harness (samples_TASK_DATE.jsonl, --log_samples) as predictions.

A row's `doc` gives the fact: subject, relation and object by our names or by those of PopQA and
LAMA; where it has none but a `question`, as most tasks do, the question is the subject, the task
the relation and the sample's target the object. A target that is a list, which the harness writes
as Python does, is the object and its aliases; so is what the document's own `answer` or `answers`
hold, where the target is among them. Of choices the likeliest is the prediction (what `acc` counts)
and all are candidates; a generated text is the prediction after the task's filter. Where the
sample's own metric counts an answer otherwise than we do, a line says so.
"""

import ast
import dataclasses
import itertools
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

from factshock.facts import listed
from factshock.predictions import accuracy
from factshock.runtime import json_text, messages
from factshock.runtime.errors import UserError

JsonObject: TypeAlias = dict[str, Any]

NAMES = {
  "subject": ("subject", "subj", "sub_label"),
  "relation": ("relation", "prop", "predicate_id", "pred"),
  "object": ("object", "obj", "obj_label"),
}
ALIASES = ("aliases", "possible_answers")
ANSWER_LISTS = ("answer", "answers")  # of a document that holds no fact
ANSWER_TEXTS = ("value", "text", "aliases")  # of an answer that is an object, as in TriviaQA, SQuAD
METRICS = ("exact_match", "em", "exact")  # of generated texts
CARRIED = ("subject_id", "object_id", "popularity")


def as_predictions(
  numbered_rows: Iterable[tuple[int, Any]], path: str
) -> Iterator[tuple[int, Any]]:
  """Returns the rows of a samples file as rows of a predictions file, those of others as they are.

  Rows of a filter other than "none" get the arm FILE/FILTER, as a task may have several. After the
  last row a line for each filter says where the samples' own metric is another than ours.

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
  comparisons: dict[tuple[str, str], _Comparison] = {}
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
    _compare(sample, row, line_number, comparisons)
    yield line_number, row
  for (filter_name, metric), comparison in comparisons.items():
    if comparison.differing:
      messages.say(f"  {path}: {comparison.text(filter_name, metric)}")


@dataclasses.dataclass
class _Comparison:
  """Counts of a metric of the samples and of our exact match; lines where the two differ."""

  count: int = 0
  theirs: float = 0.0
  ours: float = 0.0
  differing: list[int] = dataclasses.field(default_factory=list[int])

  def text(self, filter_name: str, metric: str) -> str:
    """Returns the two shares and the first lines where they differ, in words."""
    lines = ", ".join(map(str, self.differing[:5]))
    if len(self.differing) > 5:
      lines += ", ..."
    of_filter = "" if filter_name == "none" else f" after the filter {filter_name}"
    return (
      f"the samples' own {metric}{of_filter} is {self.theirs / self.count:.1%}, our exact match "
      f"{self.ours / self.count:.1%}; they differ in {len(self.differing):,} of {self.count:,} "
      f"(line {lines})"
    )


def _compare(
  sample: JsonObject,
  row: JsonObject,
  line_number: int,
  comparisons: dict[tuple[str, str], _Comparison],
) -> None:
  """Adds a sample to the comparison of its filter and metric, in place."""
  names = ("acc",) if "candidates" in row else METRICS
  metric = next((name for name in names if isinstance(sample.get(name), int | float)), None)
  if metric is None:
    return
  comparison = comparisons.setdefault((sample.get("filter", "none"), metric), _Comparison())
  theirs = float(sample[metric])
  ours = accuracy.score(row["prediction"], [row["object"], *row.get("aliases", ())]).exact_match
  comparison.count += 1
  comparison.theirs += theirs
  comparison.ours += ours
  if theirs != ours:
    comparison.differing.append(line_number)


def _answer(sample: JsonObject, context: str) -> tuple[JsonObject, list[str] | None]:
  """Returns the columns of the answer, and the texts of the choices in their order or None."""
  responses = sample["filtered_resps"]
  if _is_generated(sample):
    return {"prediction": _generated_text(responses, context)}, None
  texts = _choices(sample, context)
  scores = _choice_scores(responses, len(texts))
  has_all = len(scores) == len(texts) > 0
  if not has_all or any(map(math.isnan, scores)):
    raise UserError(
      f"{context}: expected a generated text or a log-probability of each choice in "
      f"filtered_resps, got {str(responses)[:80]}; tasks of other kinds are no "
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


def _is_generated(sample: JsonObject) -> bool:
  """Returns whether the answer is a text: by its requests, or where there are none by itself."""
  requests = _requests(sample.get("arguments") or ())
  pairs = [_request_pair(request) for request in requests if isinstance(request, Collection)]
  if pairs and len(pairs[0]) > 1 and isinstance(pairs[0][1], Mapping):
    return True  # the second argument holds settings of generation
  match sample["filtered_resps"]:
    case [str(), *_]:
      return True
    case _:
      return False


def _generated_text(responses: Any, context: str) -> str:
  """Returns the text generated; one that is left of several where they are equal."""
  texts: set[Any] = set()
  for response in cast(list[Any], responses) if isinstance(responses, list) else ():
    of_filter = cast(list[Any], response) if isinstance(response, list) else [response]
    texts.update(text.strip() if isinstance(text, str) else None for text in of_filter)
  if len(texts) != 1 or None in texts:
    shown = str(cast(Any, responses))[:80]
    raise UserError(
      f"{context}: expected one generated text in filtered_resps, got {shown}; let a "
      "filter of the task choose one (take_first, majority_vote)"
    )
  return texts.pop()


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
  targets = _targets(sample.get("target"), choices)
  fact: JsonObject = {name: _first_text(document, keys) for name, keys in NAMES.items()}
  aliases: list[str] = []
  if None in fact.values():
    accepted = targets
    if choices is None:
      accepted = _with_answers_of(document, targets)
    fact = {
      "subject": document.get("question"),
      "relation": task,
      "object": accepted[0] if accepted else None,
    }
    aliases = accepted[1:] + _aliases(document, ALIASES)
  else:
    aliases = _aliases(document, (*ALIASES, "answers"))
    if choices is None:
      aliases = aliases + targets
  if not all(map(_is_filled_text, fact.values())):
    raise UserError(
      f"{context}: expected a document with subject, relation and object, or with a question and a "
      f"target that is a text, a list of them or a choice; got {', '.join(map(str, document))} and "
      f"the target {str(sample.get('target'))[:60]!r}"
    )
  aliases = [alias for alias in dict.fromkeys(aliases) if alias != fact["object"]]
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


def _targets(target: Any, choices: list[str] | None) -> list[str]:
  """Returns the right answers that a target names: of choices by their index or their text.

  The harness writes every target as Python's text of it, so that a list is read as it reads one.
  """
  if isinstance(target, str) and target.startswith("[") and target.endswith("]"):
    target = _list_in(target)
  items: list[Any] = cast(list[Any], target) if isinstance(target, list) else [target]
  texts: list[str] = []
  for item in items:
    text = item if choices is None else _choice(item, choices)
    if isinstance(text, int | float) and not isinstance(text, bool):
      text = str(text)
    if not isinstance(text, str):
      return []
    if text.strip():
      texts.append(text.strip())
  return texts


def _list_in(text: str) -> Any:
  """Returns the list that a text is as Python or JSON writes it; another text as it is.

  None for texts in brackets that are no such list, as numpy writes them: Python would join them.
  """
  try:
    value = ast.literal_eval(text)
    if str(value) == text:
      return value
  except (ValueError, SyntaxError, RecursionError, MemoryError):
    pass
  try:
    return listed.parse(text)
  except ValueError:
    return None if text[1:2] in ("'", '"') else text


def _choice(target: Any, choices: Sequence[str]) -> str | None:
  """Returns the choice that a target names by its index or its text."""
  if str(target).isdecimal():
    index = int(str(target)[:9])
    if index < len(choices):
      return choices[index]
  return target if target in choices else None


def _with_answers_of(document: JsonObject, targets: Sequence[str]) -> list[str]:
  """Returns the targets and the document's own answers where some target is among them.

  A value that stands before its aliases, as in TriviaQA, comes first.
  """
  accepted = list(targets)
  wanted = set(map(accuracy.normalise, targets))
  for name in ANSWER_LISTS:
    answers = _answer_texts(document.get(name))
    if not targets and not accepted:
      accepted = answers
    elif wanted.intersection(map(accuracy.normalise, answers)):
      has_value = isinstance(document[name], Mapping) and "value" in document[name]
      accepted = [*answers, *accepted] if has_value else [*accepted, *answers]
  return list(dict.fromkeys(accepted))


def _answer_texts(value: Any) -> list[str]:
  """Returns the answers in a text, a list of texts, or an object with a value and aliases."""
  if isinstance(value, Mapping):
    answer = cast(Mapping[str, Any], value)
    lists = [_answer_texts(answer.get(name)) for name in ANSWER_TEXTS]
    return list(itertools.chain(*lists))
  texts = _text_list(value)
  if texts is None and isinstance(value, str):
    texts = [value]
  return [text.strip() for text in texts or () if text.strip()]


def _aliases(document: JsonObject, names: Iterable[str]) -> list[str]:
  """Returns the first list of texts under some names of a document; an empty one for none."""
  lists = (_text_list(document.get(name)) for name in names)
  return next(filter(None, lists), list[str]())


def _text_list(value: Any) -> list[str] | None:
  """Returns a list of texts, written as JSON or not; None for anything else."""
  if isinstance(value, str):
    try:
      value = json_text.loads(value)
    except ValueError:
      return None
  if not isinstance(value, list):
    return None
  items = cast(list[Any], value)
  if all(isinstance(item, str) for item in items):
    return items
  return None
