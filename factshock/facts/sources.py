"""Data sets of facts by name, as the fact schema: `popqa:PATH`, `trex:PATH` and the like.

A source is written PREFIX:PATH or PREFIX:PATH?key=value&key=value. PATH is a file (.jsonl, .csv,
.tsv, each also compressed, or .parquet), for trex, mmlu and lm_kbc also a folder, or in its place
the name of a data set on the hub. Keys: `relations`, those to keep, by commas; `split` and `config`
of a hub data set, `split` of a folder; and for `hub:` and `tfds:` the columns:
subject=NAME&relation=NAME&object=NAME, and any other column of the schema. A value in quotes is a
text, the same in every row: relation='capital'.

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
  hub, tfds        any data set of the HuggingFace hub or of TFDS, with columns
Anything else is the path of a facts file (facts/schema.py).

A fact that a file says again is merged with the first, in either.

Nothing is dropped in silence: Source.notes counts what was dropped, merged or repaired, and
`read_facts` prints them.
"""

import collections
import os
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

from factshock.facts import relations as relation_files
from factshock.facts import schema, source_readers
from factshock.facts.source_readers import Item
from factshock.runtime import files
from factshock.runtime.errors import UserError
from factshock.types import Fact, FilePath, Relation

_Key: TypeAlias = tuple[str, str, str]


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
  return _Spec.parse(spec).prefix in source_readers.READERS


def read(spec: FilePath) -> Source:
  """Reads the source of a text PREFIX:PATH, or the path of a facts file.

  Raises:
    UserError: nothing there, or not what the prefix says: names file, line, what was expected and
      what was got.
  """
  if not is_source(spec):
    return _read_file(spec)
  prefix, path, query = _Spec.parse(spec)
  options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
  if not path:
    raise UserError(f"{spec}: expected {prefix}:PATH or {prefix}:NAME, got no path and no name")
  wanted = _relations_of(options.pop("relations", ""))
  known = {"split", "config", "relations"}
  if prefix in ("hub", "tfds"):
    known |= set(schema.COLUMNS)
  if not options.keys() <= known:
    raise UserError(
      f"{spec}: expected keys of {', '.join(sorted(known))} after ?, got {', '.join(options)}"
    )
  read_items = source_readers.READERS[prefix]
  items, relations = read_items(path, options)
  facts, note = _gather(str(spec), items, wanted)
  return Source(facts, relations, [note])


def _read_file(path: FilePath) -> Source:
  """Reads a file of facts; those given again are merged, which a note counts."""
  facts: dict[_Key, Fact] = {}
  repeated: collections.Counter[str] = collections.Counter()
  row_count = 0
  for _, fact in schema.located_facts(path):
    row_count += 1
    _add(facts, fact, repeated)
  if not facts:
    raise UserError(f"{path}: expected at least one fact, got an empty file")
  notes: list[str] = []
  if repeated:
    clauses = [f"{path}: {row_count:,} rows, {len(facts):,} facts", *_repeat_clauses(repeated)]
    notes.append("; ".join(clauses))
  return Source(list(facts.values()), {}, notes)


def read_facts(spec: FilePath) -> list[Fact]:
  """Reads the facts of a source or a file; prints what was dropped, merged or repaired."""
  return _with_notes_printed(read(spec)).facts


def read_with_relations(
  spec: FilePath,
  path: FilePath | None = None,
  default_path: Callable[[], FilePath | None] | None = None,
) -> tuple[list[Fact], dict[str, Relation]]:
  """Reads the facts of a source or a file, and their relations.

  Args:
    spec: the source or the facts file.
    path: a relations file, or a source that brings relations; before those that the facts bring.
    default_path: returns the path of the relations where none is given and the source brings none.

  Raises:
    UserError: as `read`; no relations anywhere; a fact of another relation.
  """
  source = _with_notes_printed(read(spec))
  relations = source.relations
  if path or not relations:
    if not path and default_path:
      path = default_path()
    if not path:
      raise UserError(f"{spec}: brings no templates of its relations; give a relations file")
    relations = read_relations(path)
  schema.check_facts(source.facts, relations, spec)
  return source.facts, relations


def read_relations(path: FilePath) -> dict[str, Relation]:
  """Reads the relations of a relations file, or of a source that brings them."""
  if is_source(path):
    return read(path).relations
  return relation_files.read_relations(path)


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
    print(f"  {note}", flush=True)
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
  facts: dict[_Key, Fact] = {}
  dropped: collections.Counter[str] = collections.Counter()
  repeated: collections.Counter[str] = collections.Counter()
  locations: set[str] = set()
  for location, fact in items:
    locations.add(location)
    if isinstance(fact, str):
      dropped[fact] += 1
      continue
    if wanted and fact["relation"] not in wanted:
      dropped["of other relations"] += 1
      continue
    schema.check_fact(fact, location)
    _add(facts, fact, repeated)
  _check_gathered(spec, facts, dropped, wanted)
  clauses = [f"{spec}: {len(locations):,} rows, {len(facts):,} facts", *_repeat_clauses(repeated)]
  if dropped:
    clauses.append(f"dropped: {_counted(dropped)}")
  return list(facts.values()), "; ".join(clauses)


def _repeat_clauses(repeated: collections.Counter[str]) -> list[str]:
  """Returns in words what became of the facts that came again."""
  clauses: list[str] = []
  if count := repeated["merged"]:
    clauses.append(f"{count:,} merged, as they say the same fact again")
  if count := repeated["numbered"]:
    clauses.append(f"{count:,} told apart by a number, as only their choices differ")
  return clauses


def _add(
  facts: dict[_Key, Fact],
  fact: Fact,
  repeated: collections.Counter[str],
) -> None:
  """Adds a fact to those there are, merged or numbered where it comes again, which is counted."""
  subject = fact["subject"]
  key = (subject, fact["relation"], fact["object"])
  if key not in facts:
    facts[key] = fact
    return
  known = facts[key]
  if known.get("choices") != fact.get("choices"):
    repeated["numbered"] += 1
    number = repeated["numbered"] + 1
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
  facts: dict[_Key, Fact],
  dropped: collections.Counter[str],
  wanted: Sequence[str],
) -> None:
  """Raises a UserError where there is no fact, or none of a relation wanted."""
  present = {fact["relation"] for fact in facts.values()}
  absent = ", ".join(name for name in wanted if name not in present)
  if absent:
    expected = ", ".join(wanted)
    raise UserError(f"{spec}: expected facts of the relations {expected}, got none of {absent}")
  if not facts:
    reasons = f" ({_counted(dropped)})" if dropped else ""
    raise UserError(f"{spec}: expected at least one fact, got none{reasons}")


def _counted(reasons: collections.Counter[str]) -> str:
  counted = [f"{count:,} {reason}" for reason, count in reasons.most_common()]
  return ", ".join(counted)
