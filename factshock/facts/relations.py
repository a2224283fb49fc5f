"""Relations: their templates, how a fact is filled into one, and the relations.jsonl file.

A row holds `relation`, `label`, `statements` (each with one [X] and one [Y]), `questions` (each
with one [X]) and `type` (1-1, N-1, N-M). Instead of `statements` the LAMA layout is read as well:
`template` (one string) and optional `paraphrases` (list); they become `statements`, the template
first, exact repeats once. `label` defaults to the relation id, `questions` to an empty list, `type`
to an empty string. Other columns are carried along. Templates are kept to the letter.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from factshock.facts.schema import Row, first_names, json_object
from factshock.runtime import files
from factshock.runtime.errors import UserError, joined
from factshock.types import FilePath, Relation

_BLANK = re.compile(r"\[[XY]\]")
_TEMPLATE_COLUMNS = ("statements", "template", "paraphrases", "questions")


def read_relations(path: FilePath) -> dict[str, Relation]:
  """Reads a relations.jsonl[.gz] file.

  Returns:
    Each relation's row by its id, in the order of the file.

  Raises:
    UserError: malformed lines, missing columns, templates without exactly one [X] (and one [Y] in a
      statement), relations given twice, or an empty file; names file and line of each of the first.
  """
  relations: dict[str, Relation] = {}
  problems = joined(_read_into(relations, path))
  if problems:
    raise UserError(problems)
  if not relations:
    raise UserError(f"{path}: expected one relation a line, got an empty file")
  return relations


def _read_into(relations: dict[str, Relation], path: FilePath) -> Iterator[str]:
  """Adds the relations of a file by their names, and yields what is wrong with its other lines."""
  first_line: dict[str, int] = {}
  for line_number, line in files.lines(path):
    if not line.strip():
      continue
    location = f"{path}:{line_number}"
    try:
      relation = _checked_relation(json_object(line, location), location)
    except UserError as error:
      yield str(error)
      continue
    name = relation["relation"]
    if name in relations:
      yield (
        f"{location}: expected each relation once, got {name!r} again "
        f"(first in line {first_line[name]})"
      )
      continue
    relations[name] = relation
    first_line[name] = line_number


def write_relations(
  path: FilePath,
  relations: Mapping[str, Relation],
) -> None:
  """Writes relations as jsonl, one row a relation, in the mapping's order."""
  with files.atomic_write(path) as file:
    for row in relations.values():
      file.write(json.dumps(row, ensure_ascii=False) + "\n")


def statement(
  template: str,
  subject: str,
  object: str,
) -> str:
  """Returns the template with the subject for [X] and the object for [Y]."""
  return _fill(template, {"[X]": subject, "[Y]": object})


def around_answer(template: str, subject: str) -> tuple[str, str]:
  """Returns what a statement says before its [Y] and after it, with the subject for [X]."""
  before, _, after = template.partition("[Y]")
  return question(before, subject), question(after, subject)


def question(template: str, subject: str) -> str:
  """Returns the question template with the subject for [X].

  A question template has no [Y]. A relation without questions has no question text: use its cloze
  (see `question_template`, whose error names it).
  """
  return _fill(template, {"[X]": subject})


def question_template(
  relations: Mapping[str, Relation],
  relation: str,
) -> str:
  """Returns the first question template of a relation.

  Raises:
    UserError: the relation is unknown or has no question; nothing is made up from its statements.
  """
  questions = lookup(relations, relation)["questions"]
  if not questions:
    raise UserError(
      f"relation {relation!r}: expected at least one template in `questions`, got none; "
      f"add one, give each fact its own `question`, or ask with the cloze"
    )
  return questions[0]


def lookup(relations: Mapping[str, Relation], relation: str) -> Relation:
  """Returns the row of a relation.

  Raises:
    UserError: there is none; names those that there are.
  """
  if relation not in relations:
    raise UserError(
      f"relation {relation!r}: expected one of the {len(relations)} given relations "
      f"({first_names(relations)})"
    )
  return relations[relation]


def _fill(template: str, values: Mapping[str, str]) -> str:
  """Replaces all blanks in one pass, so that a name that contains "[Y]" stays as it is."""
  return _BLANK.sub(lambda match: values.get(match.group(), match.group()), template)


def _checked_relation(row: Row, location: str) -> Relation:
  """Returns a checked row: what was read, with statements, questions, label and type filled in."""
  name = row.get("relation")
  if not isinstance(name, str) or not name:
    raise UserError(f"{location}: expected a non-empty string in column `relation`, got {name!r}")
  statements = _statements(row, location)
  questions = _strings(row.get("questions") or [], "questions", location)
  check_templates(statements, questions, location)
  label = row.get("label") or name
  relation_type = row.get("type") or ""
  for column, value in (("label", label), ("type", relation_type)):
    if not isinstance(value, str):
      raise UserError(f"{location}: expected a string in column `{column}`, got {value!r}")
  others = {column: value for column, value in row.items() if column not in _TEMPLATE_COLUMNS}
  relation = {
    **others,
    "relation": name,
    "label": label,
    "statements": statements,
    "questions": questions,
    "type": relation_type,
  }
  return cast(Relation, relation)


def _statements(row: Row, location: str) -> list[str]:
  """Returns the statements of a row in either layout."""
  if "statements" in row and "template" in row:
    raise UserError(f"{location}: expected `statements` or `template`, got both; keep one")
  if "template" in row:
    template = _strings([row["template"]], "template", location)
    paraphrases = _strings(row.get("paraphrases") or [], "paraphrases", location)
    return list(dict.fromkeys(template + paraphrases))
  statements = _strings(row.get("statements") or [], "statements", location)
  if not statements:
    raise UserError(
      f"{location}: expected a non-empty list in column `statements` (or a `template`), got "
      f"{row.get('statements')!r}"
    )
  return statements


def _strings(
  value: Any,
  column: str,
  location: str,
) -> list[str]:
  if not isinstance(value, list):
    raise UserError(f"{location}: expected non-empty strings in column `{column}`, got {value!r}")
  items = cast(list[Any], value)
  if not all(isinstance(item, str) and item for item in items):
    raise UserError(f"{location}: expected non-empty strings in column `{column}`, got {items!r}")
  return items


def check_templates(
  statements: Sequence[str],
  questions: Sequence[str],
  location: str,
) -> None:
  """Raises a UserError that begins with `location` if a template has not its blanks."""
  for template in statements:
    _check_template(template, {"[X]": 1, "[Y]": 1}, "statement", location)
  for template in questions:
    _check_template(template, {"[X]": 1, "[Y]": 0}, "question", location)


def _check_template(
  template: str,
  expected: Mapping[str, int],
  form: str,
  location: str,
) -> None:
  for blank, count in expected.items():
    if template.count(blank) != count:
      raise UserError(
        f"{location}: expected {count} {blank} in the {form} {template!r}, got "
        f"{template.count(blank)}"
      )
