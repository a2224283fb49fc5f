"""Documents of this folder's tasks, from the data sets' own files, and when an answer is right.

A task's data are named by `--metadata`, a JSON object or key=value: popqa, entityquestions, trex or
lama, each as in factshock/facts/sources.py but for lama, the file or folder of LAMA's Google-RE,
ConceptNet or SQuAD. Every document holds the columns of a fact: subject, relation, object, aliases
and so on. What is dropped is counted and printed.
"""

import glob
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import datasets

from factshock.data import prompts, sentinels
from factshock.facts import schema, sources
from factshock.predictions import accuracy, writing
from factshock.runtime import messages
from factshock.runtime.errors import UserError
from factshock.types import Fact, Relation

POPQA = "akariasai/PopQA?split=test"
MASK = "[MASK]"
COLUMNS = ("subject", "relation", "object", "subject_id", "object_id", "popularity")

# A question to a model, as the harness reads it: a fact's columns and the task's own.
Document: TypeAlias = dict[str, Any]


def popqa(popqa: str = POPQA, **others: Any) -> dict[str, datasets.Dataset]:
  """Returns PopQA's questions; the data set on the hub unless --metadata names another.

  Args:
    popqa: its path.
    **others: the rest of --metadata, and --model_args; ignored.
  """
  del others
  return _dataset(_with_questions(*sources.read_with_relations(f"popqa:{popqa}")))


def entityquestions(
  entityquestions: str | None = None, **others: Any
) -> dict[str, datasets.Dataset]:
  """Returns EntityQuestions' questions.

  Args:
    entityquestions: its path.
    **others: the rest of --metadata, and --model_args; ignored.
  """
  del others
  path = _required("entityquestions", entityquestions)
  facts, relations = sources.read_with_relations(f"entityquestions:{path}")
  return _dataset(_with_questions(facts, relations))


def trex(trex: str | None = None, **others: Any) -> dict[str, datasets.Dataset]:
  """Returns T-REx's facts as statements up to their object, for decoder-only models.

  The relation's objects are the choices.

  Args:
    trex: its path.
    **others: the rest of --metadata, and --model_args; ignored.
  """
  del others
  facts, relations = sources.read_with_relations(f"trex:{_required('trex', trex)}")
  usable: dict[str, Relation] = {}
  for name, relation in relations.items():
    statements = [text for text in relation["statements"] if prompts.can_ask(text, True)]
    usable[name] = {**relation, "statements": statements}
  kept = [fact for fact in facts if usable[fact["relation"]]["statements"]]
  dropped = len(facts) - len(kept)
  _report_dropped("trex", dropped, "as no statement of their relation ends with the object")
  texts = [prompts.answer_prompt(fact, usable, form="cloze") for fact in kept]
  return _dataset(_with_choices(kept, texts))


def trex_t5(trex: str | None = None, **others: Any) -> dict[str, datasets.Dataset]:
  """Returns T-REx's facts as statements with <extra_id_0> in place of the object.

  The relation's objects are the choices.

  Args:
    trex: its path.
    **others: the rest of --metadata, and --model_args; ignored.
  """
  del others
  facts, relations = sources.read_with_relations(f"trex:{_required('trex', trex)}")
  texts = [prompts.cloze_prompt(fact, relations) for fact in facts]
  return _dataset(_with_choices(facts, texts))


def lama(lama: str | None = None, **others: Any) -> dict[str, datasets.Dataset]:
  """Returns LAMA's masked sentences up to their mask, those that hold nothing else after it.

  Args:
    lama: its file or folder.
    **others: the rest of --metadata, and --model_args; ignored.
  """
  del others
  rows = _masked_sentences(_required("lama", lama))
  kept = []
  for row in rows:
    before, _, after = row["text"].partition(MASK)
    if not re.search(r"\w", after):
      kept.append({**row, "text": before.rstrip()})
  _report_dropped("lama", len(rows) - len(kept), "as the mask does not end them")
  return _dataset(kept)


def lama_t5(lama: str | None = None, **others: Any) -> dict[str, datasets.Dataset]:
  """Returns LAMA's masked sentences, <extra_id_0> in place of the mask.

  Args:
    lama: its file or folder.
    **others: the rest of --metadata, and --model_args; ignored.
  """
  del others
  rows = _masked_sentences(_required("lama", lama))
  documents = []
  for row in rows:
    parts = map(sentinels.as_text, row["text"].split(MASK))
    documents.append({**row, "text": prompts.BLANK.join(parts)})
  return _dataset(documents)


def generated(doc: Document, results: Sequence[str]) -> dict[str, float]:
  """Returns how right a generated text is, by three measures.

  They are exact match and containment of an accepted answer, as in factshock.diagnose, and
  containment in PopQA's own words: that of Mallen et al. (2023), popqa_accuracy, by which an answer
  as it is, lower-cased or capitalised stands in the text.
  """
  text = results[0]
  accepted = [doc["object"], *(doc["aliases"] or [])]
  exact, contains, _ = accuracy.score(text, accepted)
  spellings = []
  for answer in accepted:
    spellings += [answer, answer.lower(), answer.capitalize()]
  held = any(spelling in text for spelling in spellings)
  return {"exact_match": exact, "contains": contains, "popqa_accuracy": float(held)}


def first_word(doc: Document, results: Sequence[str]) -> dict[str, float]:
  """Returns LAMA's precision at 1 over an open vocabulary.

  It is 1 where the first word generated is the object, in LAMA a single word. A word ends before
  the first character that is no part of one: "Paris-based" says Paris, "The Oslo" says The.
  """
  word = re.sub(r"\A\W+|(?<=\w)\W.*", "", results[0], flags=re.DOTALL)
  is_object = accuracy.normalise(word) == accuracy.normalise(doc["object"])
  return {"precision_at_1": float(is_object)}


def _with_questions(facts: Sequence[Fact], relations: Mapping[str, Relation]) -> list[Document]:
  return [{**_columns(fact), "question": prompts.question_text(fact, relations)} for fact in facts]


def _with_choices(facts: Sequence[Fact], texts: Sequence[str]) -> list[Document]:
  """Returns facts with their texts, the answers of their relation and which of them is right."""
  candidates = writing.candidates_of(facts)
  documents = []
  for fact, text in zip(facts, texts):
    choices = candidates[fact["relation"]]
    gold = choices.index(fact["object"])
    documents.append({**_columns(fact), "text": text, "choices": choices, "gold": gold})
  return documents


def _columns(fact: Mapping[str, Any]) -> Document:
  """Returns equal columns in every row, as `datasets` takes those of the first."""
  return {**{name: fact.get(name) for name in COLUMNS}, "aliases": fact.get("aliases") or []}


def _masked_sentences(path: str) -> list[Document]:
  """Returns the rows of LAMA's files: the fact, and its first sentence with one mask as `text`."""
  paths = [path]
  if os.path.isdir(path):
    paths = sorted(glob.glob(os.path.join(path, "**", "*.jsonl"), recursive=True))
  documents = []
  dropped = 0
  for file_path in paths:
    default_relation = os.path.basename(file_path).partition(".")[0]
    for position, row in schema.read_rows(file_path, ()):
      if "obj_label" not in row or "masked_sentences" not in row:
        raise UserError(
          f"{position}: expected a row of LAMA with obj_label and masked_sentences, got "
          f"{', '.join(map(str, row))}; T-REx has templates in their place: the task trex reads it"
        )
      texts = [text for text in row["masked_sentences"] if text.count(MASK) == 1]
      if not texts:
        dropped += 1
        continue
      fact = {
        "subject": row.get("sub_label") or row.get("sub") or texts[0],
        "relation": row.get("predicate_id") or row.get("pred") or default_relation,
        "object": row["obj_label"],
      }
      documents.append({**_columns(fact), "text": texts[0]})
  _report_dropped("lama", dropped, "without a sentence that has one mask")
  return documents


def _required(name: str, path: str | None) -> str:
  if path is None:
    raise UserError(
      f"task {name}: expected the path of its data, got none; say --metadata {name}=PATH"
    )
  return path


def _report_dropped(name: str, count: int, reason: str) -> None:
  if count:
    messages.say(f"  {name}: {count:,} rows dropped, {reason}")


def _dataset(documents: Sequence[Document]) -> dict[str, datasets.Dataset]:
  if not documents:
    raise UserError("expected at least one document, got none")
  return {"test": datasets.Dataset.from_list(list(documents))}
