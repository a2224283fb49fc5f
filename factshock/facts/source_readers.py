"""Readers of the data sets that `facts/sources.py` names: their rows as facts, and their relations.

A reader gives (location, fact) or (location, reason why the row is no fact), where the location is
file and line as errors name them. It takes the options that it uses out of those of the source.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

from factshock.facts import geonames, hub, listed, schema, templates
from factshock.facts import relations as relation_files
from factshock.facts.schema import Row
from factshock.runtime import console, files
from factshock.runtime.errors import UserError
from factshock.types import Fact, Relation

# A location, and the fact that stands there or the reason why there is none.
Item: TypeAlias = tuple[str, Fact | str]
Options: TypeAlias = dict[str, str]
# The facts of a data set, and the relations that it brings.
Contents: TypeAlias = tuple[Iterable[Item], dict[str, Relation]]
Reader: TypeAlias = Callable[[str, Options], Contents]

_NO_SUBJECT = "whose question is not in its relation's template"


def _rows(
  prefix: str,
  path: str,
  options: Options,
  columns: Sequence[str],
) -> Iterator[tuple[str, Row]]:
  """Yields (location, row) of a file, or of a hub data set where there is no such file.

  Raises:
    UserError: a row without one of `columns`: not a file of this kind.
  """
  if os.path.isdir(path):
    raise UserError(
      f"{path}: expected a file of {prefix}, got a folder that holds {_first_files(path)}; "
      f"say {prefix}:{os.path.join(path, 'FILE')}"
    )
  if _is_local(path):
    rows = schema.read_rows(path, columns)
  else:
    split = options.pop("split", None)
    config = options.pop("config", None)
    data_set = hub.open_hub(path, split, config)
    rows = _located(f"{prefix}:{path}", data_set)
  for location, row in rows:
    missing = [column for column in columns if column not in row]
    if missing:
      raise UserError(
        f"{location}: expected a row of {prefix} with {', '.join(columns)}, got "
        f"{', '.join(map(str, row))}; is it a file of {prefix}?"
      )
    yield location, row


def _is_local(path: str) -> bool:
  """Returns whether a text is a path, and not the name of a hub data set such as org/name."""
  if os.path.exists(path) or path.endswith(schema.SUFFIXES):
    return True
  return not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", path)


def _located(spec: str, rows: Iterable[Row]) -> Iterator[tuple[str, Row]]:
  return ((f"{spec}: row {index}", row) for index, row in enumerate(rows, 1))


def _first_files(folder: str) -> str:
  names = sorted(os.listdir(folder))
  return ", ".join(names[:6])


def _texts(
  value: Any,
  location: str,
  column: str,
) -> list[str]:
  """Returns a list of texts, or one that a cell holds; empty texts and repeats are left out.

  Raises:
    UserError: anything else.
  """
  is_bare = isinstance(value, str) and not re.search(r"^\s*\[|\|", value)
  texts = None if is_bare else listed.texts(value)
  if texts is None:
    raise UserError(
      f"{location}: expected {listed.EXPECTED} in column `{column}`, got {str(value)[:60]!r}"
    )
  return [text for text in dict.fromkeys(texts) if text.strip()]


def _fact(
  relation: Any,
  subject: Any,
  answer: Any,
  aliases: Sequence[str] = (),
  **columns: Any,
) -> Fact | str:
  """Returns a fact, without what is not known; or why there is none."""
  if not isinstance(subject, str) or not subject.strip():
    return "without a subject"
  if not isinstance(answer, str) or not answer.strip():
    return "without an answer"
  fact = {"subject": subject, "relation": relation, "object": answer}
  others = [alias for alias in aliases if alias != answer]
  if others:
    fact["aliases"] = others
  for name, value in columns.items():
    if value is not None and value != "":
      fact[name] = value
  return cast(Fact, fact)


def _beside(path: str, *names: str) -> str | None:
  """Returns the first path there is of names in a folder, or in the one of a file; or None."""
  folder = path if os.path.isdir(path) else os.path.dirname(path)
  neighbours = (os.path.join(folder, name) for name in names)
  return next(filter(os.path.exists, neighbours), None)


def _relations_beside(path: str) -> dict[str, Relation]:
  """Returns the relations of relations.jsonl beside a file, or one folder up as LAMA has it.

  Says once which file that is.
  """
  above = os.path.join(os.pardir, "relations.jsonl")
  neighbour = _beside(path, "relations.jsonl", above)
  if neighbour is None:
    return {}
  neighbour = os.path.normpath(neighbour)
  console.say_once(f"  {path}: templates of {neighbour}, where no other relations are given")
  return relation_files.read_relations(neighbour)


def _relation_named(path: str) -> str | None:
  """Returns the relation that a file or its folder is named after: P19.jsonl, P19/test.jsonl."""
  folder, name = os.path.split(path)
  match = re.match(r"(P\d+)\.", name) or re.fullmatch(r"(P\d+)", os.path.basename(folder))
  return match.group(1) if match else None


def _trex(
  path: str,
  options: Options,
) -> Contents:
  paths = _trex_paths(path, options) if os.path.isdir(path) else [path]
  items = (item for file in paths for item in _trex_items(file, options))
  return items, _relations_beside(path)


def _trex_paths(folder: str, options: Options) -> list[str]:
  """Returns the files of a folder in either layout."""
  split = options.pop("split", "test")
  patterns = (f"{split}.jsonl", f"P*/{split}.jsonl", "P*.jsonl")
  paths: list[str] = []
  for ending in ("", *files.COMPRESSIONS):
    for pattern in patterns:
      paths += files.matching(folder, pattern + ending)
  if not paths:
    raise UserError(
      f"{folder}: expected {split}.jsonl, P*/{split}.jsonl or P*.jsonl, got {_first_files(folder)}"
    )
  return paths


def _trex_items(path: str, options: Options) -> Iterator[Item]:
  for location, row in _rows("trex", path, options, ("sub_label", "obj_label")):
    relation = row.get("relation") or row.get("predicate_id") or _relation_named(path)
    if not relation:
      raise UserError(f"{location}: expected a `relation` or `predicate_id`, got {', '.join(row)}")
    yield location, _lama_fact(relation, row)


def _lama_fact(relation: Any, row: Row) -> Fact | str:
  """Returns the fact of a row whose columns are called as LAMA calls them, or why there is none."""
  return _fact(
    relation,
    row["sub_label"],
    row["obj_label"],
    subject_id=row.get("sub_uri"),
    object_id=row.get("obj_uri"),
  )


def _pararel(
  path: str,
  options: Options,
) -> Contents:
  paths = [path]
  if os.path.isdir(path):
    paths = _relation_files(path)
  items = (item for file in paths for item in _pararel_items(file, options))
  return items, _relations_beside(path)


def _relation_files(folder: str) -> list[str]:
  """Returns the files of a folder that are named after relations."""
  paths = [path for path in files.matching(folder, "P*.jsonl*") if path.endswith(schema.SUFFIXES)]
  if not paths:
    raise UserError(f"{folder}: expected files P*.jsonl, got {_first_files(folder)}")
  return paths


def _pararel_items(path: str, options: Options) -> Iterator[Item]:
  for location, row in _rows("pararel", path, options, ("sub_label", "obj_label")):
    relation = row.get("relation") or _relation_named(path)
    if not relation:
      raise UserError(
        f"{location}: expected a `relation`, or a file named after one such as P19.jsonl, got "
        f"{', '.join(row)}"
      )
    yield location, _lama_fact(relation, row)


def _popqa(
  path: str,
  options: Options,
) -> Contents:
  rows = _rows("popqa", path, options, ("question", "possible_answers"))
  return _popqa_items(rows), templates.rows(templates.POPQA)


def _popqa_items(rows: Iterable[tuple[str, Row]]) -> Iterator[Item]:
  for location, row in rows:
    relation: Any = row.get("prop") or row.get("type")
    if relation not in templates.POPQA:
      raise UserError(
        f"{location}: expected one of PopQA's relations in `prop` (or `type`), got {relation!r}"
      )
    answers = _texts(row["possible_answers"], location, "possible_answers")
    first_answer = answers[0] if answers else None
    answer = row.get("obj") or row.get("correct_answer") or first_answer
    _, _, question = templates.POPQA[relation]
    subject = row.get("subj") or templates.subject_in(row["question"], question)
    if not subject:
      yield location, _NO_SUBJECT
      continue
    fact = _fact(
      relation,
      subject,
      answer,
      answers,
      question=row["question"],
      popularity=_popularity(row.get("s_pop"), location),
      object_popularity=_popularity(row.get("o_pop"), location),
      subject_id=_wikidata_id(row.get("s_uri")),
      object_id=_wikidata_id(row.get("o_uri")),
    )
    yield location, fact


def _popularity(value: Any, location: str) -> float | None:
  if value is None or value == "":
    return None
  try:
    return float(value)
  except (TypeError, ValueError) as error:
    raise UserError(f"{location}: expected a number as popularity, got {value!r}") from error


def _wikidata_id(uri: str | None) -> str | None:
  if not uri:
    return None
  return uri.rsplit("/", 1)[-1]


def _entityquestions(
  path: str,
  options: Options,
) -> Contents:
  paths = _entityquestions_paths(path, options) if os.path.isdir(path) else [path]
  items = (item for file in paths for item in _entityquestions_items(file, options))
  return items, templates.rows(templates.ENTITYQUESTIONS)


def _entityquestions_paths(folder: str, options: Options) -> list[str]:
  """Returns the files of a split: of the data set's folder, of one of its splits, or one file.

  Without an option `split` it is the one there is, or else test.
  """
  paths_of: dict[str, list[str]] = {}
  for pattern in ("P*.json*", "*/P*.json*", "*.jsonl*"):
    for path in files.matching(folder, pattern):
      match = re.search(r"([a-z]+)\.jsonl?$", path.removesuffix(files.compression(path)))
      if match:
        paths_of.setdefault(match.group(1), []).append(path)
    if paths_of:
      break
  split = options.pop("split", None if len(paths_of) == 1 else "test") or next(iter(paths_of))
  if split not in paths_of:
    raise UserError(
      f"{folder}: expected files P*.{split}.json, {split}/P*.{split}.json or {split}.jsonl, got "
      f"{', '.join(sorted(paths_of)) or _first_files(folder)}"
    )
  return paths_of[split]


def _entityquestions_items(path: str, options: Options) -> Iterator[Item]:
  for location, own_row in _rows("entityquestions", path, options, ()):
    row = _question_and_answers(own_row, location)
    relation: Any = row.get("r") or _relation_named(path)
    if relation not in templates.ENTITYQUESTIONS:
      raise UserError(
        f"{location}: expected one of EntityQuestions' relations in `r`, got {relation!r}"
      )
    answers = _texts(row["a"], location, "a")
    _, _, question = templates.ENTITYQUESTIONS[relation]
    subject = templates.subject_in(row["q"], question)
    if not subject:
      yield location, _NO_SUBJECT
      continue
    fact = _fact(
      relation,
      subject,
      answers[0] if answers else None,
      answers,
      question=row["q"],
    )
    yield location, fact


def _question_and_answers(row: Row, location: str) -> Row:
  """Returns a row with q and a, which the data set's own files call question and answers."""
  named = {"q": row.get("q", row.get("question")), "a": row.get("a", row.get("answers"))}
  if named["q"] is None or named["a"] is None:
    raise UserError(
      f"{location}: expected a row of entityquestions with q, a (or question, answers), got "
      f"{', '.join(map(str, row))}; is it a file of entityquestions?"
    )
  return {**row, **named}


def _mmlu(
  path: str,
  options: Options,
) -> Contents:
  items = list(_mmlu_items(path, options))
  disciplines = {fact["relation"] for _, fact in items if not isinstance(fact, str)}
  return items, {name: _mmlu_relation(name) for name in sorted(disciplines)}


def _mmlu_relation(discipline: str) -> Relation:
  return {
    "relation": discipline,
    "label": discipline.replace("_", " "),
    "statements": ["[X] [Y]"],
    "questions": ["[X]"],
    "type": templates.mmlu_group(discipline),
  }


def _mmlu_items(path: str, options: Options) -> Iterator[Item]:
  if os.path.isdir(path) or path.endswith(files.with_compressions(".csv")):
    for file in _mmlu_paths(path, options):
      yield from _mmlu_file(file)
    return
  for location, row in _rows("mmlu", path, options, ("question", "choices", "answer", "subject")):
    fact = _mmlu_fact(
      location,
      row["subject"],
      row["question"],
      _texts(list(row["choices"]), location, "choices"),
      row["answer"],
    )
    yield location, fact


def _mmlu_paths(path: str, options: Options) -> list[str]:
  """Returns the csv files of a folder, one a discipline, or the file itself."""
  split = options.pop("split", "test")
  if path.endswith(files.with_compressions(".csv")):
    return [path]
  paths: list[str] = []
  for folder in (path, os.path.join(path, split)):
    paths += files.matching(folder, "*.csv")
  if not paths:
    raise UserError(f"{path}: expected {split}/*.csv, got {_first_files(path)}")
  return paths


def _mmlu_file(path: str) -> Iterator[Item]:
  """Yields the facts of one discipline's csv.

  It has MMLU's own layout (no header, the answer a letter) or a header.
  """
  name = os.path.basename(path).removesuffix(files.compression(path)).removesuffix(".csv")
  discipline = re.sub(r"_(dev|test|val|train)$", "", name)
  for index, (line_number, cells) in enumerate(schema.csv_records(path)):
    location = f"{path}:{line_number}"
    if index == 0 and cells[:1] == ["question"]:
      continue
    if len(cells) != 6:
      raise UserError(
        f"{location}: expected a question, four choices and the answer, got {len(cells)} cells; "
        "is it a file of mmlu?"
      )
    question, *choices, answer = cells
    yield location, _mmlu_fact(location, discipline, question, choices, answer)


def _mmlu_fact(
  location: str,
  discipline: str,
  question: str,
  choices: Sequence[str],
  answer: Any,
) -> Fact | str:
  """Returns the fact of a question whose answer is a letter or a number from 0 on."""
  index = _choice_index(answer)
  if index < 0 or len(choices) != 4:
    raise UserError(
      f"{location}: expected four choices and an answer of A to D or 0 to 3, got {len(choices)} "
      f"and {answer!r}"
    )
  if not all(choice.strip() for choice in choices):
    return "with an empty choice"
  return _fact(
    discipline,
    question,
    choices[index],
    question=question,
    choices=list(choices),
  )


def _choice_index(answer: Any) -> int:
  """Returns the index of the choice that an answer names, -1 where it names none."""
  text = str(answer)
  if text in "ABCD":
    return "ABCD".find(text)
  return int(answer) if text in "0123" else -1


_LM_KBC_COLUMNS = ("SubjectEntity", "Relation", "ObjectEntities")


def _lm_kbc(
  path: str,
  options: Options,
) -> Contents:
  path = _lm_kbc_file(path, options)
  rows = _rows("lm_kbc", path, options, _LM_KBC_COLUMNS)
  return _lm_kbc_items(rows), _lm_kbc_relations(path)


def _lm_kbc_file(path: str, options: Options) -> str:
  if not os.path.isdir(path):
    return path
  split = options.pop("split", "train")
  return os.path.join(path, f"{split}.jsonl")


def unanswered_rows(path: str, options: Options) -> Iterator[Row]:
  """Yields `subject`, `relation` and `subject_id` of an LM-KBC file's rows without an answer."""
  path = _lm_kbc_file(path, options)
  for _, row in _rows("lm_kbc", path, options, _LM_KBC_COLUMNS):
    if row["ObjectEntities"] == []:
      yield {
        "subject": row["SubjectEntity"],
        "relation": row["Relation"],
        "subject_id": row.get("SubjectEntityID"),
      }


def _lm_kbc_items(rows: Iterable[tuple[str, Row]]) -> Iterator[Item]:
  for location, row in rows:
    objects: Any = row["ObjectEntities"]
    if not isinstance(objects, list):
      raise UserError(f"{location}: expected a list in `ObjectEntities`, got {objects!r}")
    answers = cast(list[Any], objects)
    ids: list[Any] = row.get("ObjectEntitiesID") or []
    if len(ids) != len(answers):
      ids = [None] * len(answers)
    if not answers:
      yield location, "without an answer"
    for answer, object_id in zip(answers, ids):
      given = [answer] if isinstance(answer, str) else answer
      names = _texts(given, location, "ObjectEntities")
      fact = _fact(
        row["Relation"],
        row["SubjectEntity"],
        names[0] if names else None,
        names,
        subject_id=row.get("SubjectEntityID"),
        object_id=object_id,
      )
      yield location, fact


def _lm_kbc_relations(path: str) -> dict[str, Relation]:
  """Returns the relations of the prompts beside a file; {} where there are none.

  The prompts are masked_prompts.csv and question_prompts.csv.
  """
  questions = _lm_kbc_prompts(path, "question_prompts.csv", ("[X]",))
  statements = _lm_kbc_prompts(path, "masked_prompts.csv", ("[X]", "[Y]"))
  relations: dict[str, Relation] = {}
  for name, statement in statements.items():
    relations[name] = {
      "relation": name,
      "label": name,
      "statements": [statement],
      "questions": [questions[name]] if name in questions else [],
      "type": "",
    }
  return relations


def _lm_kbc_prompts(
  path: str,
  name: str,
  blanks: Sequence[str],
) -> dict[str, str]:
  """Returns the last template of each relation in a file of prompts beside another file."""
  prompts: dict[str, str] = {}
  neighbour = _beside(path, name)
  if not neighbour:
    return prompts
  for location, row in schema.read_rows(neighbour, ("Relation", "PromptTemplate")):
    template: str = row["PromptTemplate"]
    text = template.replace("{subject_entity}", "[X]").replace("{mask_token}", "[Y]")
    if any(text.count(blank) != 1 for blank in blanks):
      mask = " and {mask_token} once" if len(blanks) > 1 else ""
      raise UserError(
        f"{location}: expected {{subject_entity}} once{mask}, got {row['PromptTemplate']!r}"
      )
    prompts[row["Relation"]] = text
  return prompts


def _mapped(
  prefix: str,
  name: str,
  options: Options,
  rows: Iterable[tuple[str, Row]],
) -> Iterator[Item]:
  """Yields (location, fact) of rows whose columns the options name."""
  missing = [column for column in schema.REQUIRED if column not in options]
  if missing:
    raise UserError(
      f"{prefix}:{name}: expected the columns that hold subject, relation and object, got none for "
      f"{', '.join(missing)}; say {prefix}:{name}?subject=COLUMN&relation='capital'&object=COLUMN"
    )
  for location, row in rows:
    values: dict[str, Any] = {}
    for key, column in options.items():
      values[key] = _mapped_value(location, row, column)
    for key in ("aliases", "choices"):
      if values.get(key) is not None:
        values[key] = _texts(values[key], location, options[key])
    if "popularity" in values:
      values["popularity"] = _popularity(values["popularity"], location)
    aliases: list[str] = values.pop("aliases", None) or []
    answer = values.pop("object")
    yield location, _fact(answer=answer, aliases=aliases, **values)


def _mapped_value(
  location: str,
  row: Mapping[str, Any],
  column: str,
) -> Any:
  """Returns a row's value of a column, or the text of a column in quotes."""
  if re.fullmatch(r"'.*'", column):
    return column[1:-1]
  if column not in row:
    raise UserError(f"{location}: expected a column {column!r}, got {', '.join(map(str, row))}")
  value = row[column]
  return value.decode("utf-8") if isinstance(value, bytes) else value


def _hub(
  name: str,
  options: Options,
) -> Contents:
  opening = {key: options.pop(key) for key in ("split", "config") if key in options}
  rows = _rows("hub", name, opening, ())
  return _mapped("hub", name, options, rows), {}


def _tfds(
  name: str,
  options: Options,
) -> Contents:
  split = options.pop("split", "test")
  rows = _located(f"tfds:{name}", hub.open_tfds(name, split))
  return _mapped("tfds", name, options, rows), {}


def _geonames(
  name: str,
  options: Options,
) -> Contents:
  if name:
    raise UserError(f"geonames:{name}: expected geonames: alone or geonames:?KEY=VALUE, got a name")
  return geonames.items(), templates.rows(geonames.TEMPLATES)


READERS: dict[str, Reader] = {
  "trex": _trex,
  "popqa": _popqa,
  "entityquestions": _entityquestions,
  "mmlu": _mmlu,
  "pararel": _pararel,
  "lm_kbc": _lm_kbc,
  "geonames": _geonames,
  "hub": _hub,
  "tfds": _tfds,
}
