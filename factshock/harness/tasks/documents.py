"""The documents of the tasks in this folder, from the data sets' own files, and when an answer is right.

A task's data are named by `--metadata`, a JSON object or key=value: popqa, entityquestions, trex or lama,
each as in factshock/facts/sources.py but for lama, the file or folder of LAMA's Google-RE, ConceptNet or
SQuAD. Every document holds the columns of a fact: subject, relation, object, aliases and so on. What is
dropped is counted and printed.
"""

import glob
import os
import re

from factshock.data import prompts
from factshock.facts import schema, sources
from factshock.predictions import accuracy, writing
from factshock.runtime.errors import UserError

POPQA = "akariasai/PopQA?split=test"
MASK = "[MASK]"
COLUMNS = ("subject", "relation", "object", "subject_id", "object_id", "popularity")


def popqa(popqa=POPQA, **others):
  """PopQA's questions; the data set on the hub unless --metadata names another."""
  del others  # the rest of --metadata, and --model_args
  return _dataset(_asked(*sources.read_with_relations(f"popqa:{popqa}")))


def entityquestions(entityquestions=None, **others):
  """EntityQuestions' questions."""
  del others
  return _dataset(
    _asked(
      *sources.read_with_relations(f"entityquestions:{_given('entityquestions', entityquestions)}")
    )
  )


def trex(trex=None, **others):
  """T-REx's facts as statements up to their object, for decoder-only models; the relation's objects are the choices."""
  del others
  rows, relations = sources.read_with_relations(f"trex:{_given('trex', trex)}")
  asking = {
    name: [text for text in row["statements"] if prompts.can_ask(text, True)]
    for name, row in relations.items()
  }
  kept = [fact for fact in rows if asking[fact["relation"]]]
  _say_dropped(
    "trex", len(rows) - len(kept), "as no statement of their relation ends with the object"
  )
  first = {name: {**relations[name], "statements": texts} for name, texts in asking.items()}
  return _dataset(
    _ranked(kept, [prompts.answer_prompt(fact, first, form="cloze") for fact in kept])
  )


def trex_t5(trex=None, **others):
  """T-REx's facts as statements with <extra_id_0> in place of the object; the relation's objects are the choices."""
  del others
  rows, relations = sources.read_with_relations(f"trex:{_given('trex', trex)}")
  return _dataset(_ranked(rows, [prompts.cloze_prompt(fact, relations) for fact in rows]))


def lama(lama=None, **others):
  """LAMA's masked sentences up to their mask, those that hold nothing else after it."""
  del others
  rows = _masked(_given("lama", lama))
  kept = [row for row in rows if not re.search(r"\w", row["text"].partition(MASK)[2])]
  _say_dropped("lama", len(rows) - len(kept), "as the mask does not end them")
  return _dataset([{**row, "text": row["text"].partition(MASK)[0].rstrip()} for row in kept])


def lama_t5(lama=None, **others):
  """LAMA's masked sentences, <extra_id_0> in place of the mask."""
  del others
  return _dataset(
    [
      {**row, "text": row["text"].replace(MASK, prompts.BLANK)}
      for row in _masked(_given("lama", lama))
    ]
  )


def generated(doc, results):
  """Exact match and containment of an accepted answer, as in factshock.diagnose, and containment in PopQA's own words.

  The last is that of Mallen et al. (2023), popqa_accuracy: an answer as it is, lower-cased or capitalised stands in
  the text.
  """
  text = results[0]
  accepted = [doc["object"], *(doc["aliases"] or [])]
  exact, contains, _ = accuracy.score(text, accepted)
  held = any(
    form in text for answer in accepted for form in (answer, answer.lower(), answer.capitalize())
  )
  return {"exact_match": exact, "contains": contains, "popqa_accuracy": float(held)}


def first_word(doc, results):
  """LAMA's precision at 1 over an open vocabulary: the first word generated is the object, in LAMA a single word."""
  words = accuracy.normalise(results[0]).split()
  return {"precision_at_1": float(words[:1] == accuracy.normalise(doc["object"]).split())}


def _asked(rows, relations):
  return [{**_fact(fact), "question": prompts.question_text(fact, relations)} for fact in rows]


def _ranked(rows, texts):
  options = writing.candidates_of(rows)
  return [
    {
      **_fact(fact),
      "text": text,
      "choices": options[fact["relation"]],
      "gold": options[fact["relation"]].index(fact["object"]),
    }
    for fact, text in zip(rows, texts)
  ]


def _fact(fact):
  """Equal columns in every row, as `datasets` takes those of the first."""
  return {**{name: fact.get(name) for name in COLUMNS}, "aliases": fact.get("aliases") or []}


def _masked(where):
  """The rows of LAMA's files: the fact, and its first sentence with one mask as `text`."""
  paths = (
    sorted(glob.glob(os.path.join(where, "**", "*.jsonl"), recursive=True))
    if os.path.isdir(where)
    else [where]
  )
  found = []
  dropped = 0
  for path in paths:
    for place, row in schema.read_rows(path, ()):
      if "obj_label" not in row or "masked_sentences" not in row:
        raise UserError(
          f"{place}: expected a row of LAMA with obj_label and masked_sentences, got "
          f"{', '.join(map(str, row))}; T-REx has templates in their place: the task trex reads it"
        )
      text = next((text for text in row["masked_sentences"] if text.count(MASK) == 1), None)
      dropped += text is None
      if text is not None:
        relation = (
          row.get("predicate_id") or row.get("pred") or os.path.basename(path).partition(".")[0]
        )
        found.append(
          {
            **_fact(
              {
                "subject": row.get("sub_label") or row.get("sub") or text,
                "relation": relation,
                "object": row["obj_label"],
              }
            ),
            "text": text,
          }
        )
  _say_dropped("lama", dropped, "without a sentence that has one mask")
  return found


def _given(name, path):
  if path is None:
    raise UserError(
      f"task {name}: expected the path of its data, got none; say --metadata {name}=PATH"
    )
  return path


def _say_dropped(name, number, why):
  if number:
    print(f"  {name}: {number:,} rows dropped, {why}", flush=True)


def _dataset(rows):
  import datasets

  if not rows:
    raise UserError("expected at least one document, got none")
  return {"test": datasets.Dataset.from_list(rows)}
