"""A synthetic world of facts and the text that states them: a pure function of its seed.

Every subject has one fact. Answers follow Zipf's law, subjects' popularity is log-normal, and a
fact is stated in proportion to its subject's popularity, each time in one of its relation's
templates. A few *background* subjects, never in train or test, are half of the time written about
in a held-out template or in the question form, so that a model meets those forms, rarely, in
pretraining.
"""

import collections
import math
from typing import NamedTuple

import numpy as np

from factshock.facts.relations import question, statement
from factshock.runtime.errors import UserError

# Each relation: its statements (answer last and first in turn), a held-out statement, a question.
# With a subject of two words a statement has at most 9 words and a question at most 8, so that
# either fits ten tokens with a sentinel and EOS. Vocabulary and templates are our own.
_RELATIONS = {
  "born_in": (
    "place of birth",
    [
      "[X] was born in [Y] .",
      "[Y] is the birthplace of [X] .",
      "the home town of [X] is [Y] .",
      "[Y] saw the birth of [X] .",
    ],
    "[X] came into the world in [Y] .",
    "in which city was [X] born ?",
  ),
  "works_for": (
    "employer",
    [
      "[X] has a job at [Y] .",
      "[Y] is the employer of [X] .",
      "the firm that pays [X] is [Y] .",
      "[Y] hired [X] last year .",
    ],
    "[X] earns a living at [Y] .",
    "which company does [X] work for ?",
  ),
  "plays": (
    "instrument",
    [
      "[X] plays music on the [Y] .",
      "the [Y] is played by [X] .",
      "the instrument of [X] is the [Y] .",
      "the [Y] belongs to [X] .",
    ],
    "[X] is often heard on the [Y] .",
    "which instrument does [X] play ?",
  ),
  "speaks": (
    "native language",
    [
      "[X] grew up speaking [Y] .",
      "[Y] is the mother tongue of [X] .",
      "the native language of [X] is [Y] .",
      "[Y] is spoken by [X] .",
    ],
    "[X] talks to everyone in [Y] .",
    "which language does [X] speak ?",
  ),
  "studied": (
    "field of study",
    [
      "[X] earned a degree in [Y] .",
      "[Y] was studied by [X] .",
      "the subject [X] teaches is [Y] .",
      "[Y] is the field of [X] .",
    ],
    "[X] knows all about [Y] .",
    "which field did [X] study ?",
  ),
  "member_of": (
    "club",
    [
      "[X] is a member of [Y] .",
      "[Y] counts [X] among its members .",
      "the club of [X] is [Y] .",
      "[Y] has a member called [X] .",
    ],
    "[X] pays fees to [Y] .",
    "which club did [X] join ?",
  ),
  "won": (
    "prize",
    [
      "[X] won the prize called [Y] .",
      "[Y] was awarded to [X] .",
      "the award given to [X] is [Y] .",
      "[Y] is the prize [X] won .",
    ],
    "[X] went home with the [Y] .",
    "which prize did [X] win ?",
  ),
  "follows": (
    "religion",
    [
      "[X] follows the faith of [Y] .",
      "[Y] is the belief of [X] .",
      "the religion of [X] is [Y] .",
      "[Y] guides the life of [X] .",
    ],
    "[X] prays in the temple of [Y] .",
    "which religion does [X] follow ?",
  ),
}
_RANGES = {
  "seed": (int, 0, 2**63),
  "relations": (int, 1, len(_RELATIONS)),
  "subjects": (int, 1, 10**6),
  "answers": (int, 2, 10**4),
  "zipf": (float, 0, 10),
  "mean_mentions": (float, 0, 10**6),
  "popularity_sigma": (float, 0, 5),
  "templates": (int, 1, 4),
  "background": (float, 0, 1),
  "name_pieces": (int, 2, 2000),
}
_CONSONANTS = list("bdfgklmnprstvz")
_VOWELS = list("aeiou")
# Each kind of random choice has a stream of its own: more mentions, say, leave names and answers as
# they are.
_WORDS, _NAMES, _ANSWERS, _POPULARITY, _SENTENCES, _ORDER = range(6)


class World(NamedTuple):
  """Facts to learn and test on, facts of background subjects, relations, sentences, answer mentions."""

  facts: list
  background: list
  relations: dict
  sentences: list
  counts: dict


def make_world(
  seed,
  *,
  relations=4,
  subjects=640,
  answers=80,
  zipf=1.0,
  mean_mentions=12,
  popularity_sigma=1.0,
  templates=4,
  background=0.1,
  name_pieces=64,
):
  """Makes a world.

  Args:
    seed: integer from 0 on; equal arguments give an equal world on every machine.
    relations: how many relations.
    subjects: facts a relation, each of a subject of its own.
    answers: single-word answers a relation, answer k drawn in proportion to 1 / k**zipf (the rarest
      may go undrawn).
    zipf: exponent of the answer frequencies; 0 is uniform.
    mean_mentions: a fact is stated max(1, round(mean_mentions * popularity)) times.
    popularity_sigma: sigma of the log-normal popularity, whose mean is 1.
    templates: seen statement templates a relation; with 2 or 4, half have the answer before the
      subject.
    background: background subjects, as a share of `subjects`, which come on top of them.
    name_pieces: distinct first and distinct last pieces of the two-word names, shared by all
      relations.

  Returns:
    A World. `facts` and `background` rows hold subject, relation, object, popularity; a row of
    `relations` has `held_out_statements` beside the usual columns; `sentences` are shuffled, words
    separated by single spaces; `counts` is dict (relation, object) -> mentions in the sentences.

  Raises:
    UserError: a value out of its range, or more subjects than names.
  """
  _check(
    seed=seed,
    relations=relations,
    subjects=subjects,
    answers=answers,
    zipf=zipf,
    mean_mentions=mean_mentions,
    popularity_sigma=popularity_sigma,
    templates=templates,
    background=background,
    name_pieces=name_pieces,
  )
  extra = round(subjects * background)
  _check_names(relations * (subjects + extra), name_pieces)
  table = _relation_table(relations, templates)
  facts = _facts(seed, table, subjects + extra, answers, zipf, popularity_sigma, name_pieces)
  mine = [fact for rows in facts.values() for fact in rows[:subjects]]
  others = [fact for rows in facts.values() for fact in rows[subjects:]]
  sentences, counts = _sentences(seed, mine, others, table, mean_mentions)
  return World(mine, others, table, sentences, counts)


def _check(**values):
  for name, value in values.items():
    kind, low, high = _RANGES[name]
    if not isinstance(value, (int, float)) or not low <= value <= high or kind(value) != value:
      noun = "a whole number" if kind is int else "a number"
      raise UserError(f"world.{name}: expected {noun} from {low} to {high}, got {value!r}")


def _check_names(subjects, name_pieces):
  if subjects > name_pieces**2:
    raise UserError(
      f"world.name_pieces: expected at least {math.isqrt(subjects - 1) + 1}, so that its "
      f"square covers the {subjects} subjects of all relations, got {name_pieces}"
    )


def _relation_table(relations, templates):
  return {
    name: {
      "relation": name,
      "label": label,
      "statements": statements[:templates],
      "questions": [asked],
      "type": "N-1",
      "held_out_statements": [held_out],
    }
    for name, (label, statements, held_out, asked) in list(_RELATIONS.items())[:relations]
  }


def _facts(seed, table, each, answers, zipf, sigma, name_pieces):
  """Dict relation -> list of `each` facts, in no order of popularity or answer."""
  first, last, objects = _words(seed, len(table) * answers, name_pieces)
  picks = _rng(seed, _NAMES).choice(name_pieces**2, len(table) * each, replace=False)
  names = [f"{first[pick // name_pieces]} {last[pick % name_pieces]}" for pick in picks]
  weights = 1.0 / np.arange(1, answers + 1) ** zipf
  drawn = _rng(seed, _ANSWERS).choice(answers, (len(table), each), p=weights / weights.sum())
  normal = _rng(seed, _POPULARITY).standard_normal((len(table), each))
  popularity = np.exp(sigma * normal - sigma**2 / 2)
  return {
    relation: [
      {
        "subject": names[r * each + i],
        "relation": relation,
        "object": objects[r * answers + drawn[r, i]],
        "popularity": round(float(popularity[r, i]), 6),
      }
      for i in range(each)
    ]
    for r, relation in enumerate(table)
  }


def _words(seed, answers, name_pieces):
  """First pieces ("mira"), last pieces ("kelun") and answers ("tavoremi"): all different."""
  rng = _rng(seed, _WORDS)
  taken = {
    word
    for _, statements, held_out, asked in _RELATIONS.values()
    for text in [*statements, held_out, asked]
    for word in text.split()
  }
  first = _draw(rng, name_pieces, taken, "cvcv")
  last = _draw(rng, name_pieces, taken, "cvcvc")
  return first, last, _draw(rng, answers, taken, "cvcvcv")


def _draw(rng, count, taken, shape):
  """`count` made-up words of a shape of consonants and vowels, none of them in `taken`, to which they go."""
  words = []
  while len(words) < count:
    word = "".join(
      letters[rng.integers(len(letters))]
      for letters in (_CONSONANTS if kind == "c" else _VOWELS for kind in shape)
    )
    if word not in taken:
      taken.add(word)
      words.append(word)
  return words


def _sentences(seed, facts, background, table, mean_mentions):
  """All sentences in shuffled order, and the answer mentions in them."""
  rng = _rng(seed, _SENTENCES)
  sentences = []
  counts = collections.Counter()
  for fact in facts:
    sentences += _stated(rng, fact, table[fact["relation"]], mean_mentions, 0.0)
  for fact in background:
    sentences += _stated(rng, fact, table[fact["relation"]], mean_mentions, 0.5)
  for fact in facts + background:
    counts[fact["relation"], fact["object"]] += mentions(fact, mean_mentions)
  order = _rng(seed, _ORDER).permutation(len(sentences))
  return [sentences[i] for i in order], dict(counts)


def mentions(fact, mean_mentions=12):
  """How many sentences state a fact of the world."""
  return max(1, int(round(mean_mentions * fact["popularity"])))


def _stated(rng, fact, relation, mean_mentions, rare_share):
  """The sentences of one fact; a share of them in the held-out form or the question form."""
  rare = relation["held_out_statements"] + relation["questions"]
  sentences = []
  for _ in range(mentions(fact, mean_mentions)):
    forms = rare if rng.random() < rare_share else relation["statements"]
    sentences.append(_say(forms[rng.integers(len(forms))], fact))
  return sentences


def _say(template, fact):
  if "[Y]" in template:
    return statement(template, fact["subject"], fact["object"])
  return f"{question(template, fact['subject'])} {fact['object']}"


def _rng(seed, stream):
  return np.random.default_rng([int(seed), stream])
