"""Answers in sentences: which known answer of its relation a text names.

One rule: a text that is no known answer is linked to the one that it mentions first, the longest of
several that begin there, by name or by an alias that one answer of the relation alone has. Mentions
are those of `factshock.count` (facts/entities.py): whole words, with the case of the name.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from factshock.diagnosis.shock import Entities
from factshock.facts import entities as entity_search
from factshock.facts.entities import Search
from factshock.predictions.accuracy import normalise
from factshock.types import Answer


@dataclasses.dataclass(frozen=True, eq=False)
class Linker:
  """Finds known answers in texts.

  Attributes:
    names: by relation the index of the entity that each name is of, names as they are searched.
    searches: a cache of the search for a relation's names.
  """

  names: Mapping[str, Mapping[str, int]]
  searches: dict[str, Search] = dataclasses.field(default_factory=dict[str, Search])

  @classmethod
  def of(
    cls,
    entities: Entities,
    answers: Iterable[tuple[str, Sequence[str]]],
    aliases: Mapping[Answer, str],
  ) -> "Linker":
    """Returns the linker to some entities.

    Args:
      entities: the known answers.
      answers: (relation, accepted answers with the object first) pairs.
      aliases: (relation, normalised alias) -> normalised object (shock.alias_names).
    """
    names: dict[str, dict[str, int]] = {}
    for relation, accepted in answers:
      for text in accepted:
        key = relation, normalise(text)
        entity = entities.index.get(key)
        if entity is None and key in aliases:
          entity = entities.index.get((relation, aliases[key]))
        if entity is not None:
          names.setdefault(relation, {})[entity_search.canonical_name(text)] = entity
    for entity, (relation, name) in enumerate(entities.names):
      names.setdefault(relation, {})[entity_search.canonical_name(name)] = entity
    return cls(names)

  def link(self, pairs: Sequence[Answer]) -> list[int | None]:
    """Returns the entity that each (relation, text) names, None where it names none."""
    places: dict[str, list[int]] = {}
    for place, (relation, _) in enumerate(pairs):
      places.setdefault(relation, []).append(place)
    linked: list[int | None] = [None] * len(pairs)
    for relation, places_of_relation in places.items():
      texts = [pairs[place][1] for place in places_of_relation]
      names = self.names.get(relation, {})
      if relation not in self.searches:
        self.searches[relation] = entity_search.search_of_names(names)
      found = entity_search.first_names(texts, self.searches[relation])
      for place, name in zip(places_of_relation, found):
        linked[place] = None if name is None else names[name]
    return linked


@dataclasses.dataclass(frozen=True, eq=False)
class Links:
  """Says how the answers of an arm are known answers of their relations.

  Attributes:
    entity: index of each query's predicted entity [N], the number of entities for no known answer.
    linked: whether it was found in a text that is more than it [N].
    unknown: whether the text names no known answer [N].
  """

  entity: np.ndarray
  linked: np.ndarray
  unknown: np.ndarray

  def counts(self) -> dict[str, int]:
    """Returns how many answers are an entity, were linked to one, and name none."""
    linked = int(self.linked.sum())
    unknown = int(self.unknown.sum())
    return {"exact": len(self.entity) - linked - unknown, "linked": linked, "none": unknown}
