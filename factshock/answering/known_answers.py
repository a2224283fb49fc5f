"""Candidates of ranking: all answers known of a relation, not those of the facts asked alone.

Among the right answers of the facts that are asked alone a model is right more often than it would
be among all that are known, and no two sets of facts can be compared.
"""

import collections
import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from factshock.checkpoints.loading import Origin
from factshock.facts import schema, sources
from factshock.predictions import writing
from factshock.runtime import messages
from factshock.runtime.errors import UserError
from factshock.runtime.workdir import Workdir
from factshock.types import Candidates

_NO_FACTS = "relations.jsonl"  # beside the facts of a workdir


def of_relations(
  facts: Sequence[Mapping[str, Any]],
  name: str,
  relations: Iterable[str],
  origin: Origin,
  others: Sequence[str | None] = (),
  count_tokens: sources.CountTokens | None = None,
) -> Candidates:
  """Returns the answers known of each relation, sorted; prints how many and from where.

  They are the objects of the facts given, of all facts in the workdir that the checkpoint names (of
  its seed: what it was finetuned on and the rest), and of other files.

  Args:
    facts: facts with objects; a fact without one adds nothing.
    name: where they come from, to be printed.
    relations: the relations that are asked for.
    origin: what the model's folder says of it.
    others: paths of facts, or data sets; None adds nothing.
    count_tokens: as of sources.read.

  Raises:
    UserError: a relation without any answer, or a file that cannot be read.
  """
  by_source: dict[str, Sequence[Mapping[str, Any]]] = {name: facts}
  for path in dict.fromkeys(others):
    if path:
      by_source[path] = sources.read_facts(path, count_tokens)
  for path in _facts_of_workdir(origin):
    if not any(_is_same_file(path, other) for other in by_source):
      by_source[path] = schema.read_facts(path)
  wanted = dict.fromkeys(relations)
  answered = [fact for read in by_source.values() for fact in read if fact.get("object")]
  candidates = writing.candidates_of(answered, wanted)
  used = [path for path, read in by_source.items() if any(f["relation"] in wanted for f in read)]
  show(candidates, used)
  return candidates


def of_file(
  path: str,
  relations: Iterable[str],
  facts: Iterable[Mapping[str, Any]],
  count_tokens: sources.CountTokens | None = None,
) -> Candidates:
  """Returns the answers of a file alone, by relation and sorted; prints how many there are.

  Prints also how many facts have no answer among them.

  Args:
    path: of facts, or a data set.
    relations: the relations that are asked for.
    facts: facts with objects; a fact without one is not counted.
    count_tokens: as of sources.read.

  Raises:
    UserError: a relation without any answer, or a file that cannot be read.
  """
  answered = [fact for fact in sources.read_facts(path, count_tokens) if fact.get("object")]
  try:
    candidates = writing.candidates_of(answered, dict.fromkeys(relations))
  except UserError as error:
    raise UserError(f"{path}: {error}") from error
  show(candidates, [path])
  sets = {name: frozenset(answers) for name, answers in candidates.items()}
  is_among = collections.Counter(_is_among(fact, sets) for fact in facts if fact.get("object"))
  if without := is_among[False]:
    messages.say(
      f"  {without:,} of {is_among.total():,} facts have no answer among them: no prediction of "
      "these can be right"
    )
  return candidates


def _is_among(fact: Mapping[str, Any], candidates: Mapping[str, frozenset[str]]) -> bool:
  accepted = [fact["object"], *(fact.get("aliases") or ())]
  return not candidates.get(fact["relation"], frozenset()).isdisjoint(accepted)


def show(candidates: Candidates, source_names: Sequence[str]) -> None:
  """Prints how many candidates there are and where they come from."""
  total = sum(map(len, candidates.values()))
  in_relations = f" of {len(candidates):,} relations" if len(candidates) > 1 else ""
  messages.say(f"  among {total:,} candidates{in_relations} from {', '.join(source_names)}")


def _facts_of_workdir(origin: Origin) -> list[str]:
  """Returns the paths of the facts of a checkpoint's seed in its workdir, if it has one."""
  workdir = origin.record.get("workdir")
  if not workdir:
    return []
  folder = Workdir(workdir).facts(origin.seed)
  paths = glob.glob(os.path.join(glob.escape(folder), "*.jsonl"))
  return sorted(path for path in paths if os.path.basename(path) != _NO_FACTS)


def _is_same_file(path: str, other: str) -> bool:
  return os.path.exists(other) and os.path.samefile(path, other)
