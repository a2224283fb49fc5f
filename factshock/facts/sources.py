"""Data sets of facts by name, as the fact schema: `popqa:PATH`, `trex:PATH` and the like.

A source is written PREFIX:WHERE or PREFIX:WHERE?key=value&key=value. WHERE is a file (.jsonl, .csv, .tsv, each also
with .gz, or .parquet), for trex, mmlu and lm_kbc also a folder, or the name of a data set on the hub. Keys: `relations`,
those to keep, by commas; `split` and `config` of a hub data set, `split` of a folder; and for `hub:` and `tfds:` the columns: subject=NAME&relation=NAME&object=NAME,
and any other column of the schema. A value in quotes is a text, the same in every row: relation='capital'.

  trex             LAMA's T-REx as AutoPrompt and LAMA lay it out: sub_label, obj_label, sub_uri, obj_uri and relation
                   or predicate_id; templates from relations.jsonl beside it
  popqa            PopQA: popularity s_pop, aliases from possible_answers
  entityquestions  EntityQuestions: r, q, a; the subject is what stands in the relation's question template
  mmlu             MMLU: relation is the discipline, question and subject are the question, choices the four answers
  pararel          ParaRel: relation, sub_label, obj_label; templates from relations.jsonl beside it
  lm_kbc           LM-KBC challenges: a fact for each object of a row; templates from the prompts beside it
  hub, tfds        any data set of the HuggingFace hub or of TFDS, with columns
Anything else is the path of a facts file (facts/schema.py).

Nothing is dropped in silence: Source.notes counts what was dropped, merged or repaired, and `read_facts` prints them.
"""

import collections
import csv
import glob
import json
import os
import re
import urllib.parse
from typing import NamedTuple

from factshock.facts import hub, schema, templates
from factshock.facts import relations as relation_files
from factshock.runtime import files
from factshock.runtime.errors import UserError


class Source(NamedTuple):
  """Facts, the relations whose templates the data set brings ({} if none), and lines that say what was done."""

  facts: list
  relations: dict
  notes: list


def files_of(spec):
  """The files that a source or a path names: those of a folder, or of a glob pattern; none for a data set of the hub."""
  where = str(spec).partition(":")[2].partition("?")[0] if is_source(spec) else str(spec)
  pattern = os.path.join(where, "**") if os.path.isdir(where) else where
  return sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))


def is_source(spec):
  """Whether a text names a data set by its prefix, rather than a file."""
  return str(spec).partition(":")[0] in _READERS


def read(spec):
  """The Source of a text PREFIX:WHERE, or of the path of a facts file.

  Raises:
    UserError: nothing there, or not what the prefix says: names file, line, what was expected and what was got.
  """
  if not is_source(spec):
    return Source(schema.read_facts(spec), {}, [])
  prefix, _, rest = str(spec).partition(":")
  where, _, query = rest.partition("?")
  options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
  if not where:
    raise UserError(f"{spec}: expected {prefix}:PATH or {prefix}:NAME, got no path and no name")
  wanted = options.pop("relations", "")
  known = {"split", "config", "relations"} | (
    set(schema.COLUMNS) if prefix in ("hub", "tfds") else set()
  )
  if not options.keys() <= known:
    raise UserError(
      f"{spec}: expected keys of {', '.join(sorted(known))} after ?, got {', '.join(options)}"
    )
  found, relations = _READERS[prefix](where, options)
  return _source(spec, found, relations, [name for name in wanted.split(",") if name])


def read_facts(spec):
  """The facts of a source or a file; prints what was dropped, merged or repaired."""
  return _said(read(spec)).facts


def read_with_relations(spec, path=None, otherwise=None):
  """(facts, relations) of a source or a file, as `read_facts`; the relations of `path`, or those that the source brings.

  Args:
    path: a relations file, or a source that brings relations.
    otherwise: () -> path of the relations where none is given and the source brings none.
  Raises:
    UserError: as `read`; no relations anywhere; a fact of another relation.
  """
  source = _said(read(spec))
  relations = source.relations
  if path or not relations:
    path = path or (otherwise and otherwise())
    if not path:
      raise UserError(f"{spec}: brings no templates of its relations; give a relations file")
    relations = read_relations(path)
  schema.check_facts(source.facts, relations, spec)
  return source.facts, relations


def read_relations(path):
  """The relations of a relations file, or of a source that brings them."""
  return read(path).relations if is_source(path) else relation_files.read_relations(path)


def _said(source):
  for note in source.notes:
    print(f"  {note}", flush=True)
  return source


def _source(spec, found, relations, wanted):
  """Gathers (place, fact, or the reason why there is none) into a Source, of the relations `wanted` or of all.

  A fact told again is merged; one whose choices differ is another fact, and its subject gets a number.
  """
  facts = {}
  dropped = collections.Counter()
  merged = 0
  apart = 0
  places = set()
  for place, fact in found:
    places.add(place)
    if isinstance(fact, str):
      dropped[fact] += 1
      continue
    if wanted and fact["relation"] not in wanted:
      dropped["of other relations"] += 1
      continue
    schema.check_fact(fact, place)
    key = (fact["subject"], fact["relation"], fact["object"])
    if key in facts and facts[key].get("choices") != fact.get("choices"):
      apart += 1
      fact["subject"] = f"{fact['subject']} ({apart + 1})"
      facts[fact["subject"], *key[1:]] = fact
    elif key in facts:
      merged += 1
      aliases = [*facts[key].get("aliases", []), *fact.get("aliases", [])]
      facts[key] = {
        **fact,
        **facts[key],
        **({"aliases": list(dict.fromkeys(aliases))} if aliases else {}),
      }
    else:
      facts[key] = fact
  absent = [name for name in wanted if not any(fact["relation"] == name for fact in facts.values())]
  if absent:
    raise UserError(
      f"{spec}: expected facts of the relations {', '.join(wanted)}, got none of {', '.join(absent)}"
    )
  if not facts:
    raise UserError(
      f"{spec}: expected at least one fact, got none"
      + (f" ({_counted(dropped)})" if dropped else "")
    )
  parts = [f"{spec}: {len(places):,} rows, {len(facts):,} facts"]
  parts += [f"{merged:,} merged, as they say the same fact again"] if merged else []
  parts += [f"{apart:,} told apart by a number, as only their choices differ"] if apart else []
  parts += [f"dropped: {_counted(dropped)}"] if dropped else []
  return Source(list(facts.values()), relations, ["; ".join(parts)])


def _counted(reasons):
  return ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())


def _rows(prefix, where, options, columns):
  """(place, row) of a file, or of a hub data set where there is no such file; takes its options.

  Raises:
    UserError: a row without one of `columns`: not a file of this kind.
  """
  if os.path.isdir(where):
    raise UserError(
      f"{where}: expected a file of {prefix}, got a folder that holds {', '.join(sorted(os.listdir(where))[:6])}; "
      f"say {prefix}:{os.path.join(where, 'FILE')}"
    )
  local = (
    os.path.exists(where)
    or where.endswith(schema.SUFFIXES)
    or not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", where)
  )
  rows = (
    schema.read_rows(where, columns)
    if local
    else _numbered(
      f"{prefix}:{where}",
      hub.open_hub(where, options.pop("split", None), options.pop("config", None)),
    )
  )
  for place, row in rows:
    missing = [column for column in columns if column not in row]
    if missing:
      raise UserError(
        f"{place}: expected a row of {prefix} with {', '.join(columns)}, got {', '.join(map(str, row))}; "
        f"is it a file of {prefix}?"
      )
    yield place, row


def _numbered(spec, rows):
  return ((f"{spec}: row {number}", row) for number, row in enumerate(rows, 1))


def _texts(value, place, column):
  """A list of texts, written as JSON or not; a UserError for anything else. Empty texts are left out."""
  if isinstance(value, str):
    try:
      value = json.loads(value)
    except ValueError as error:
      raise UserError(
        f"{place}: expected a list of texts in column `{column}`, got {value[:60]!r}"
      ) from error
  if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
    raise UserError(f"{place}: expected a list of texts in column `{column}`, got {value!r}")
  return [text for text in dict.fromkeys(value) if text.strip()]


def _fact(relation, subject, answer, aliases=(), **more):
  """A fact, without what is not known; or why there is none."""
  for name, text in (("subject", subject), ("answer", answer)):
    if not isinstance(text, str) or not text.strip():
      return f"without {'an' if name == 'answer' else 'a'} {name}"
  others = [alias for alias in aliases if alias != answer]
  known = {name: value for name, value in more.items() if value is not None and value != ""}
  return {
    "subject": subject,
    "relation": relation,
    "object": answer,
    **({"aliases": others} if others else {}),
    **known,
  }


def _beside(path, name):
  """A file of this name in a folder, or in the one of a file; None if there is none."""
  found = os.path.join(path if os.path.isdir(path) else os.path.dirname(path), name)
  return found if os.path.exists(found) else None


def _relations_beside(path):
  found = _beside(path, "relations.jsonl")
  return relation_files.read_relations(found) if found else {}


def _trex(where, options):
  if os.path.isdir(where):
    split = options.pop("split", "test")
    paths = [
      path
      for end in ("", ".gz")
      for pattern in (f"{split}.jsonl{end}", f"P*/{split}.jsonl{end}", f"P*.jsonl{end}")
      for path in sorted(glob.glob(os.path.join(where, pattern)))
    ]
    if not paths:
      raise UserError(
        f"{where}: expected {split}.jsonl, P*/{split}.jsonl or P*.jsonl, got {', '.join(sorted(os.listdir(where))[:6])}"
      )
  else:
    paths = [where]
  return (pair for path in paths for pair in _trex_rows(path, options)), _relations_beside(where)


def _trex_rows(path, options):
  folder = os.path.basename(os.path.dirname(path))
  for place, row in _rows("trex", path, options, ("sub_label", "obj_label")):
    relation = (
      row.get("relation")
      or row.get("predicate_id")
      or (folder if re.fullmatch(r"P\d+", folder) else None)
    )
    if not relation:
      raise UserError(f"{place}: expected a `relation` or `predicate_id`, got {', '.join(row)}")
    yield (
      place,
      _fact(
        relation,
        row["sub_label"],
        row["obj_label"],
        subject_id=row.get("sub_uri"),
        object_id=row.get("obj_uri"),
      ),
    )


def _pararel(where, options):
  rows = _rows("pararel", where, options, ("relation", "sub_label", "obj_label"))
  return (
    (place, _fact(row["relation"], row["sub_label"], row["obj_label"])) for place, row in rows
  ), _relations_beside(where)


def _popqa(where, options):
  return _popqa_rows(
    _rows("popqa", where, options, ("question", "possible_answers"))
  ), templates.rows(templates.POPQA)


def _popqa_rows(rows):
  for place, row in rows:
    relation = row.get("prop") or row.get("type")
    if relation not in templates.POPQA:
      raise UserError(
        f"{place}: expected one of PopQA's relations in `prop` (or `type`), got {relation!r}"
      )
    answers = _texts(row["possible_answers"], place, "possible_answers")
    answer = row.get("obj") or row.get("correct_answer") or (answers[0] if answers else None)
    subject = row.get("subj") or templates.subject_in(row["question"], templates.POPQA[relation][2])
    if not subject:
      yield place, "whose question is not in its relation's template"
      continue
    yield (
      place,
      _fact(
        relation,
        subject,
        answer,
        answers,
        question=row["question"],
        popularity=_number(row.get("s_pop"), place),
        object_popularity=_number(row.get("o_pop"), place),
        subject_id=_wikidata(row.get("s_uri")),
        object_id=_wikidata(row.get("o_uri")),
      ),
    )


def _number(value, place):
  try:
    return None if value is None or value == "" else float(value)
  except (TypeError, ValueError) as error:
    raise UserError(f"{place}: expected a number as popularity, got {value!r}") from error


def _wikidata(uri):
  return uri.rsplit("/", 1)[-1] if uri else None


def _entityquestions(where, options):
  rows = _rows("entityquestions", where, options, ("q", "a"))
  return _entity_questions_rows(rows, where), templates.rows(templates.ENTITYQUESTIONS)


def _entity_questions_rows(rows, where):
  named = re.match(
    r"(P\d+)\.", os.path.basename(where)
  )  # the data set's own files are named by relation
  for place, row in rows:
    relation = row.get("r") or (named and named.group(1))
    if relation not in templates.ENTITYQUESTIONS:
      raise UserError(
        f"{place}: expected one of EntityQuestions' relations in `r`, got {relation!r}"
      )
    answers = _texts(row["a"], place, "a")
    subject = templates.subject_in(row["q"], templates.ENTITYQUESTIONS[relation][2])
    yield (
      place,
      (
        _fact(relation, subject, answers[0] if answers else None, answers, question=row["q"])
        if subject
        else "whose question is not in its relation's template"
      ),
    )


def _mmlu(where, options):
  facts = list(_mmlu_rows(where, options))
  disciplines = sorted({fact["relation"] for _, fact in facts if not isinstance(fact, str)})
  return facts, {
    name: {
      "relation": name,
      "label": name.replace("_", " "),
      "statements": ["[X] [Y]"],
      "questions": ["[X]"],
      "type": templates.mmlu_group(name),
    }
    for name in disciplines
  }


def _mmlu_rows(where, options):
  if not os.path.isdir(where) and not where.endswith(".csv"):
    return (
      _mmlu_fact(
        place,
        row["subject"],
        row["question"],
        _texts(list(row["choices"]), place, "choices"),
        row["answer"],
      )
      for place, row in _rows("mmlu", where, options, ("question", "choices", "answer", "subject"))
    )
  split = options.pop("split", "test")
  paths = (
    [where]
    if where.endswith(".csv")
    else [
      path
      for folder in (where, os.path.join(where, split))
      for path in sorted(glob.glob(os.path.join(folder, "*.csv")))
    ]
  )
  if not paths:
    raise UserError(
      f"{where}: expected {split}/*.csv, got {', '.join(sorted(os.listdir(where))[:6])}"
    )
  return (pair for path in paths for pair in _mmlu_file(path))


def _mmlu_file(path):
  """Facts of one discipline's csv, with MMLU's own layout (no header, the answer a letter) or with a header."""
  discipline = re.sub(r"_(dev|test|val|train)$", "", os.path.basename(path).removesuffix(".csv"))
  reader = csv.reader(line + "\n" for _, line in files.lines(path))
  for number, cells in enumerate(reader, 1):
    place = f"{path}:{reader.line_num}"
    if number == 1 and cells[:1] == ["question"]:
      continue
    if len(cells) != 6:
      raise UserError(
        f"{place}: expected a question, four choices and the answer, got {len(cells)} cells; is it a file of mmlu?"
      )
    yield place, _mmlu_fact(place, discipline, cells[0], cells[1:5], cells[5])


def _mmlu_fact(place, discipline, question, choices, answer):
  which = (
    "ABCD".find(str(answer))
    if str(answer) in "ABCD"
    else int(answer)
    if str(answer) in "0123"
    else -1
  )
  if which < 0 or len(choices) != 4:
    raise UserError(
      f"{place}: expected four choices and an answer of A to D or 0 to 3, got {len(choices)} and {answer!r}"
    )
  if not all(choice.strip() for choice in choices):
    return "with an empty choice"
  return _fact(discipline, question, choices[which], question=question, choices=list(choices))


def _lm_kbc(where, options):
  where = _lm_kbc_file(where, options)
  return _lm_kbc_rows(
    _rows("lm_kbc", where, options, ("SubjectEntity", "Relation", "ObjectEntities"))
  ), _lm_kbc_relations(where)


def _lm_kbc_file(where, options):
  if not os.path.isdir(where):
    return where
  split = options.pop("split", "train")
  return _beside(where, f"{split}.jsonl") or os.path.join(where, f"{split}.jsonl")


def read_unanswered(spec):
  """The queries of a data set that have no answer and are therefore no facts: dicts of subject, relation, subject_id (LM-KBC has such)."""
  prefix, _, rest = str(spec).partition(":")
  if prefix != "lm_kbc":
    return []
  where, _, query = rest.partition("?")
  options = dict(urllib.parse.parse_qsl(query))
  wanted = [name for name in options.pop("relations", "").split(",") if name]
  rows = _rows(
    "lm_kbc", _lm_kbc_file(where, options), options, ("SubjectEntity", "Relation", "ObjectEntities")
  )
  return [
    {
      "subject": row["SubjectEntity"],
      "relation": row["Relation"],
      "subject_id": row.get("SubjectEntityID"),
    }
    for _, row in rows
    if row["ObjectEntities"] == [] and (not wanted or row["Relation"] in wanted)
  ]


def _lm_kbc_rows(rows):
  for place, row in rows:
    objects = row["ObjectEntities"]
    ids = row.get("ObjectEntitiesID") or []
    if not isinstance(objects, list):
      raise UserError(f"{place}: expected a list in `ObjectEntities`, got {objects!r}")
    if not objects:
      yield place, "without an answer"
    for number, names in enumerate(objects):
      names = _texts([names] if isinstance(names, str) else names, place, "ObjectEntities")
      yield (
        place,
        _fact(
          row["Relation"],
          row["SubjectEntity"],
          names[0] if names else None,
          names,
          subject_id=row.get("SubjectEntityID"),
          object_id=ids[number] if len(ids) == len(objects) else None,
        ),
      )


def _lm_kbc_relations(path):
  """Templates from the masked_prompts.csv and question_prompts.csv beside a file; {} where there are none."""
  prompts = {}
  for name, blanks in (("masked_prompts.csv", ("[X]", "[Y]")), ("question_prompts.csv", ("[X]",))):
    found = _beside(path, name)
    for place, row in schema.read_rows(found, ("Relation", "PromptTemplate")) if found else ():
      text = row["PromptTemplate"].replace("{subject_entity}", "[X]").replace("{mask_token}", "[Y]")
      if any(text.count(blank) != 1 for blank in blanks):
        raise UserError(
          f"{place}: expected {{subject_entity}} once"
          + (" and {mask_token} once" if len(blanks) > 1 else "")
          + f", got {row['PromptTemplate']!r}"
        )
      prompts.setdefault(row["Relation"], {})[name] = text
  return {
    name: {
      "relation": name,
      "label": name,
      "statements": [texts["masked_prompts.csv"]],
      "questions": [texts[key] for key in ("question_prompts.csv",) if key in texts],
      "type": "",
    }
    for name, texts in prompts.items()
    if "masked_prompts.csv" in texts
  }


def _mapped(prefix, where, options, rows):
  """(place, fact) of rows whose columns the options name."""
  missing = [name for name in schema.REQUIRED if name not in options]
  if missing:
    raise UserError(
      f"{prefix}:{where}: expected the columns that hold subject, relation and object, got none for "
      f"{', '.join(missing)}; say {prefix}:{where}?subject=COLUMN&relation='capital'&object=COLUMN"
    )
  for place, row in rows:
    fact = {name: _mapped_value(place, row, column) for name, column in options.items()}
    for name in ("aliases", "choices"):
      if fact.get(name) is not None:
        fact[name] = _texts(fact[name], place, options[name])
    if "popularity" in fact:
      fact["popularity"] = _number(fact["popularity"], place)
    yield (
      place,
      _fact(**{"aliases": fact.pop("aliases", None) or [], "answer": fact.pop("object"), **fact}),
    )


def _mapped_value(place, row, column):
  if re.fullmatch(r"'.*'", column):
    return column[1:-1]
  if column not in row:
    raise UserError(f"{place}: expected a column {column!r}, got {', '.join(map(str, row))}")
  value = row[column]
  return value.decode("utf-8") if isinstance(value, bytes) else value


def _hub(where, options):
  place = {key: options.pop(key) for key in ("split", "config") if key in options}
  return _mapped("hub", where, options, _rows("hub", where, place, ())), {}


def _tfds(where, options):
  split = options.pop("split", "test")
  return _mapped(
    "tfds", where, options, _numbered(f"tfds:{where}", hub.open_tfds(where, split))
  ), {}


_READERS = {
  "trex": _trex,
  "popqa": _popqa,
  "entityquestions": _entityquestions,
  "mmlu": _mmlu,
  "pararel": _pararel,
  "lm_kbc": _lm_kbc,
  "hub": _hub,
  "tfds": _tfds,
}
