"""Synthetic world of facts and the text that states them: a pure function of its seed.

Every subject has one fact. Answers follow Zipf's law, subjects' popularity is log-normal, and a
fact is stated in proportion to its subject's popularity, each time in one of its relation's
templates. A few *background* subjects, never in train or test, are half of the time written about
in a held-out template or in the question form, so that a model meets those forms, rarely, in
pretraining.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from factshock.facts.relations import question, statement
from factshock.runtime.errors import UserError
from factshock.runtime.settings import Check, check_fields, setting
from factshock.types import Answer, Fact, Relation


class WorldRelation(Relation):
  """Relation with a statement that training text does not use."""

  held_out_statements: list[str]


class _Templates(NamedTuple):
  """Texts of a relation: statements have the answer last and first in turn."""

  label: str
  statements: list[str]
  held_out: str
  question: str


# With a subject of two words a statement has at most 9 words and a question at most 8, so that
# either fits ten tokens with a sentinel and EOS. Vocabulary and templates are our own.
_RELATIONS = {
  "born_in": _Templates(
    label="place of birth",
    statements=[
      "[X] was born in [Y] .",
      "[Y] is the birthplace of [X] .",
      "the home town of [X] is [Y] .",
      "[Y] saw the birth of [X] .",
    ],
    held_out="[X] came into the world in [Y] .",
    question="in which city was [X] born ?",
  ),
  "works_for": _Templates(
    label="employer",
    statements=[
      "[X] has a job at [Y] .",
      "[Y] is the employer of [X] .",
      "the firm that pays [X] is [Y] .",
      "[Y] hired [X] last year .",
    ],
    held_out="[X] earns a living at [Y] .",
    question="which company does [X] work for ?",
  ),
  "plays": _Templates(
    label="instrument",
    statements=[
      "[X] plays music on the [Y] .",
      "the [Y] is played by [X] .",
      "the instrument of [X] is the [Y] .",
      "the [Y] belongs to [X] .",
    ],
    held_out="[X] is often heard on the [Y] .",
    question="which instrument does [X] play ?",
  ),
  "speaks": _Templates(
    label="native language",
    statements=[
      "[X] grew up speaking [Y] .",
      "[Y] is the mother tongue of [X] .",
      "the native language of [X] is [Y] .",
      "[Y] is spoken by [X] .",
    ],
    held_out="[X] talks to everyone in [Y] .",
    question="which language does [X] speak ?",
  ),
  "studied": _Templates(
    label="field of study",
    statements=[
      "[X] earned a degree in [Y] .",
      "[Y] was studied by [X] .",
      "the subject [X] teaches is [Y] .",
      "[Y] is the field of [X] .",
    ],
    held_out="[X] knows all about [Y] .",
    question="which field did [X] study ?",
  ),
  "member_of": _Templates(
    label="club",
    statements=[
      "[X] is a member of [Y] .",
      "[Y] counts [X] among its members .",
      "the club of [X] is [Y] .",
      "[Y] has a member called [X] .",
    ],
    held_out="[X] pays fees to [Y] .",
    question="which club did [X] join ?",
  ),
  "won": _Templates(
    label="prize",
    statements=[
      "[X] won the prize called [Y] .",
      "[Y] was awarded to [X] .",
      "the award given to [X] is [Y] .",
      "[Y] is the prize [X] won .",
    ],
    held_out="[X] went home with the [Y] .",
    question="which prize did [X] win ?",
  ),
  "follows": _Templates(
    label="religion",
    statements=[
      "[X] follows the faith of [Y] .",
      "[Y] is the belief of [X] .",
      "the religion of [X] is [Y] .",
      "[Y] guides the life of [X] .",
    ],
    held_out="[X] prays in the temple of [Y] .",
    question="which religion does [X] follow ?",
  ),
}
_CONSONANTS = list("bdfgklmnprstvz")
_VOWELS = list("aeiou")
# Each kind of random choice has a stream of its own: more mentions, say, leave names and answers as
# they are.
_WORDS, _NAMES, _ANSWERS, _POPULARITY, _SENTENCES, _ORDER = range(6)


def _whole(low: int, high: int) -> Check:
  return Check(
    (int, float),
    lambda value: low <= value <= high and int(value) == value,
    f"a whole number from {low} to {high}",
  )


def _number(low: int, high: int) -> Check:
  return Check((int, float), lambda value: low <= value <= high, f"a number from {low} to {high}")


@dataclasses.dataclass(frozen=True)
class WorldSettings:
  """Settings of a world.

  Args:
    seed: integer from 0 on; equal settings give an equal world on every machine.
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
  """

  seed: int = setting(_whole(0, 2**63))
  relations: int = setting(_whole(1, len(_RELATIONS)), default=4)
  subjects: int = setting(_whole(1, 10**6), default=640)
  answers: int = setting(_whole(2, 10**4), default=80)
  zipf: float = setting(_number(0, 10), default=1.0)
  mean_mentions: float = setting(_number(0, 10**6), default=12)
  popularity_sigma: float = setting(_number(0, 5), default=1.0)
  templates: int = setting(_whole(1, 4), default=4)
  background: float = setting(_number(0, 1), default=0.1)
  name_pieces: int = setting(_whole(2, 2000), default=64)

  def __post_init__(self) -> None:
    check_fields(self, "world")
    names = self.relations * self.subjects_with_background
    if names > self.name_pieces**2:
      raise UserError(
        f"world.name_pieces: expected at least {math.isqrt(names - 1) + 1}, so that its "
        f"square covers the {names} subjects of all relations, got {self.name_pieces}"
      )

  @property
  def subjects_with_background(self) -> int:
    """Returns how many subjects a relation has."""
    return self.subjects + round(self.subjects * self.background)


class World(NamedTuple):
  """Facts to learn and test on, facts of background subjects, and the text that states them.

  Facts hold subject, relation, object, popularity. The sentences are shuffled, their words
  separated by single spaces; `counts` are the mentions of each (relation, object) in them.
  """

  facts: list[Fact]
  background: list[Fact]
  relations: dict[str, WorldRelation]
  sentences: list[str]
  counts: dict[Answer, int]


def make_world(seed: int, **options: Any) -> World:
  """Makes a world.

  Args:
    seed: integer from 0 on.
    **options: the other fields of WorldSettings.

  Raises:
    UserError: a value out of its range, or more subjects than names.
  """
  settings = WorldSettings(seed=seed, **options)
  relations = _relation_table(settings)
  facts = _facts(settings, list(relations))
  main: list[Fact] = []
  background: list[Fact] = []
  for rows in facts.values():
    main += rows[: settings.subjects]
    background += rows[settings.subjects :]
  sentences, counts = _sentences(settings, main, background, relations)
  return World(main, background, relations, sentences, counts)


def _relation_table(settings: WorldSettings) -> dict[str, WorldRelation]:
  table: dict[str, WorldRelation] = {}
  for name, templates in list(_RELATIONS.items())[: settings.relations]:
    table[name] = {
      "relation": name,
      "label": templates.label,
      "statements": templates.statements[: settings.templates],
      "questions": [templates.question],
      "type": "N-1",
      "held_out_statements": [templates.held_out],
    }
  return table


def _facts(
  settings: WorldSettings,
  relations: Sequence[str],
) -> dict[str, list[Fact]]:
  """Returns the facts of each relation, in no order of popularity or answer."""
  each = settings.subjects_with_background
  seed = settings.seed
  shape = (len(relations), each)
  pieces = settings.name_pieces
  first, last, objects = _words(seed, len(relations) * settings.answers, pieces)
  picks = _rng(seed, _NAMES).choice(pieces**2, len(relations) * each, replace=False)
  names = [f"{first[pick // pieces]} {last[pick % pieces]}" for pick in picks]
  weights = 1.0 / np.arange(1, settings.answers + 1) ** settings.zipf
  drawn = _rng(seed, _ANSWERS).choice(settings.answers, shape, p=weights / weights.sum())
  normal = _rng(seed, _POPULARITY).standard_normal(shape)
  sigma = settings.popularity_sigma
  popularity = np.exp(sigma * normal - sigma**2 / 2)
  facts: dict[str, list[Fact]] = {}
  for r, relation in enumerate(relations):
    facts[relation] = [
      {
        "subject": names[r * each + i],
        "relation": relation,
        "object": objects[r * settings.answers + drawn[r, i]],
        "popularity": round(float(popularity[r, i]), 6),
      }
      for i in range(each)
    ]
  return facts


def _words(
  seed: int,
  answers: int,
  name_pieces: int,
) -> tuple[list[str], list[str], list[str]]:
  """Returns first pieces ("mira"), last pieces ("kelun"), answers ("tavoremi"): all different."""
  rng = _rng(seed, _WORDS)
  taken: set[str] = set()
  for templates in _RELATIONS.values():
    for text in [*templates.statements, templates.held_out, templates.question]:
      taken.update(text.split())
  first = _draw(rng, name_pieces, taken, "cvcv")
  last = _draw(rng, name_pieces, taken, "cvcvc")
  return first, last, _draw(rng, answers, taken, "cvcvcv")


def _draw(
  rng: np.random.Generator,
  count: int,
  taken: set[str],
  shape: str,
) -> list[str]:
  """Returns made-up words of a shape of consonants and vowels.

  None of them is in `taken`, to which they go.
  """
  letters = [_CONSONANTS if kind == "c" else _VOWELS for kind in shape]
  words: list[str] = []
  while len(words) < count:
    word = "".join(choices[rng.integers(len(choices))] for choices in letters)
    if word not in taken:
      taken.add(word)
      words.append(word)
  return words


def _sentences(
  settings: WorldSettings,
  facts: Sequence[Fact],
  background: Sequence[Fact],
  relations: Mapping[str, WorldRelation],
) -> tuple[list[str], dict[Answer, int]]:
  """Returns all sentences in shuffled order, and the answer mentions in them."""
  rng = _rng(settings.seed, _SENTENCES)
  sentences: list[str] = []
  counts: collections.Counter[Answer] = collections.Counter()
  for group, rare_share in ((facts, 0.0), (background, 0.5)):
    for fact in group:
      relation = relations[fact["relation"]]
      mention_count = mentions(fact, settings.mean_mentions)
      sentences += _stated(rng, fact, relation, mention_count, rare_share)
      counts[fact["relation"], fact["object"]] += mention_count
  order = _rng(settings.seed, _ORDER).permutation(len(sentences))
  return [sentences[i] for i in order], dict(counts)


def mentions(fact: Mapping[str, Any], mean_mentions: float = 12) -> int:
  """Returns how many sentences state a fact of the world."""
  return max(1, round(mean_mentions * fact["popularity"]))


def _stated(
  rng: np.random.Generator,
  fact: Fact,
  relation: WorldRelation,
  mention_count: int,
  rare_share: float,
) -> Iterable[str]:
  """Yields the sentences of one fact; a share of them in the held-out or the question form."""
  rare = relation["held_out_statements"] + relation["questions"]
  for _ in range(mention_count):
    forms = rare if rng.random() < rare_share else relation["statements"]
    yield _fill(forms[rng.integers(len(forms))], fact)


def _fill(template: str, fact: Fact) -> str:
  if "[Y]" in template:
    return statement(template, fact["subject"], fact["object"])
  return f"{question(template, fact['subject'])} {fact['object']}"


def _rng(seed: int, stream: int) -> np.random.Generator:
  return np.random.default_rng([int(seed), stream])
