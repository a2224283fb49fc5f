"""Relations: their templates, how a fact is filled into one, and the relations.jsonl file.

A row holds `relation`, `label`, `statements` (each with one [X] and one [Y]), `questions` (each with one
[X]) and `type` (1-1, N-1, N-M). Instead of `statements` the LAMA layout is read as well: `template` (one
string) and optional `paraphrases` (list); they become `statements`, the template first, exact repeats
once. `label` defaults to the relation id, `questions` to an empty list, `type` to an empty string. Other
columns are carried along. Templates are kept to the letter.
"""

import json
import re

from factshock.facts.schema import json_object
from factshock.runtime import files
from factshock.runtime.errors import UserError

_BLANK = re.compile(r"\[[XY]\]")
_TEMPLATE_COLUMNS = ("statements", "template", "paraphrases", "questions")


def read_relations(path):
  """Reads a relations.jsonl[.gz] file: dict from relation id to its row, in the order of the file.

  Raises:
    UserError: a malformed line, a missing column, a template without exactly one [X] (and one [Y] in a
      statement), a relation given twice, or an empty file; each names file and line.
  """
  relations = {}
  first_line = {}
  for number, line in files.lines(path):
    if not line.strip():
      continue
    row = _relation(json_object(line, f"{path}:{number}"), f"{path}:{number}")
    name = row["relation"]
    if name in relations:
      raise UserError(
        f"{path}:{number}: expected each relation once, got {name!r} again "
        f"(first in line {first_line[name]})"
      )
    relations[name], first_line[name] = row, number
  if not relations:
    raise UserError(f"{path}: expected one relation a line, got an empty file")
  return relations


def write_relations(path, relations):
  """Writes relations (dict from id to row) as jsonl, one row a relation, in the dict's order."""
  with files.atomic_write(path) as file:
    for row in relations.values():
      file.write(json.dumps(row, ensure_ascii=False) + "\n")


def statement(template, subject, object):
  """The template with the subject for [X] and the object for [Y]."""
  return _fill(template, {"[X]": subject, "[Y]": object})


def cloze(template, subject, blank):
  """The template with the subject for [X] and `blank` (a mask or sentinel) where the answer goes."""
  return _fill(template, {"[X]": subject, "[Y]": blank})


def question(template, subject):
  """The question template with the subject for [X].

  A question template has no [Y]. A relation without questions has no question text: use its cloze (see
  `question_template`, which says so).
  """
  return _fill(template, {"[X]": subject})


def question_template(relations, relation):
  """The first question template of a relation.

  Raises:
    UserError: the relation is unknown or has no question; nothing is made up from its statements.
  """
  questions = known(relations, relation)["questions"]
  if not questions:
    raise UserError(
      f"relation {relation!r}: expected at least one template in `questions`, got none; "
      f"add one, give each fact its own `question`, or ask with the cloze"
    )
  return questions[0]


def known(relations, relation):
  """The row of a relation; a UserError that names the known ones where there is none."""
  if relation not in relations:
    shown = ", ".join(sorted(relations)[:8]) + (", ..." if len(relations) > 8 else "")
    raise UserError(
      f"relation {relation!r}: expected one of the {len(relations)} given relations ({shown})"
    )
  return relations[relation]


def _fill(template, values):
  """Replaces all blanks in one pass, so that a name that contains "[Y]" stays as it is."""
  return _BLANK.sub(lambda match: values.get(match.group(), match.group()), template)


def _relation(row, where):
  """A checked row: what was read, with statements, questions, label and type filled in."""
  name = row.get("relation")
  if not isinstance(name, str) or not name:
    raise UserError(f"{where}: expected a non-empty string in column `relation`, got {name!r}")
  statements = _statements(row, where)
  questions = _strings(row.get("questions") or [], "questions", where)
  check_templates({"statements": statements, "questions": questions}, where)
  label = row.get("label") or name
  kind = row.get("type") or ""
  for column, value in (("label", label), ("type", kind)):
    if not isinstance(value, str):
      raise UserError(f"{where}: expected a string in column `{column}`, got {value!r}")
  rest = {column: value for column, value in row.items() if column not in _TEMPLATE_COLUMNS}
  return {
    **rest,
    "relation": name,
    "label": label,
    "statements": statements,
    "questions": questions,
    "type": kind,
  }


def _statements(row, where):
  if "statements" in row and "template" in row:
    raise UserError(f"{where}: expected `statements` or `template`, got both; keep one")
  if "template" in row:
    template = _strings([row["template"]], "template", where)
    paraphrases = _strings(row.get("paraphrases") or [], "paraphrases", where)
    return list(dict.fromkeys(template + paraphrases))
  statements = _strings(row.get("statements") or [], "statements", where)
  if not statements:
    raise UserError(
      f"{where}: expected a non-empty list in column `statements` (or a `template`), got "
      f"{row.get('statements')!r}"
    )
  return statements


def _strings(value, column, where):
  if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
    raise UserError(f"{where}: expected non-empty strings in column `{column}`, got {value!r}")
  return value


def check_templates(row, where):
  """Raises a UserError that begins with `where` if a statement or question has not its blanks."""
  for template in row["statements"]:
    _check_template(template, {"[X]": 1, "[Y]": 1}, "statement", where)
  for template in row["questions"]:
    _check_template(template, {"[X]": 1, "[Y]": 0}, "question", where)


def _check_template(template, expected, kind, where):
  for blank, count in expected.items():
    if template.count(blank) != count:
      raise UserError(
        f"{where}: expected {count} {blank} in the {kind} {template!r}, got {template.count(blank)}"
      )
