"""Counting mentions of entities against brute force, and what is counted where names overlap."""

import collections
import re
import unicodedata

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from factshock.facts import documents, entities, sources
from factshock.facts.world import make_world

HIDDEN = "\u00ad\u200b\u200d\ufe0f"
SAME = str.maketrans("‘’‐‑\u00a0\u2009\t", "''--   ", HIDDEN)


def canonical(text):
  """The text with one sign for all its variants, spaces in a row as one."""
  return re.sub(" +", " ", text.translate(SAME))


def is_unspaced(letter):
  return bool(re.match("[\u0e00-\u0e7f\u3040-\u30ff\u4e00-\u9fff]", letter))


def is_mark(letter):
  return unicodedata.category(letter).startswith("M")


def goes_on(name, text, at):
  """Whether a word that the name is a part of stands at this place."""
  before, after = text[max(0, at - 1) : at], text[at + len(name) : at + len(name) + 1]

  def is_word(letter):
    return re.match(r"\w", letter) or is_mark(letter)

  from_before = before and is_word(before) and not is_unspaced(before)
  on_after = after and is_word(after) and (is_mark(after) or not is_unspaced(after))
  opens = is_unspaced(name[0]) and not is_mark(name[0])
  return (from_before and not opens) or (
    on_after and (not is_unspaced(name[-1]) or (is_mark(after) and is_unspaced(after)))
  )


def brute_force(texts, facts, folded=False):
  """The same counts, place by place, with regular expressions."""

  def normal(text):
    text = unicodedata.normalize("NFC", text).replace("\n", " ")
    return canonical(text.casefold() if folded else text)

  def normal_name(name):
    return normal(name).strip()

  names = {}
  for fact in facts:
    names.setdefault(fact["subject"], set()).add(normal_name(fact["subject"]))
    names.setdefault(fact["object"], set()).update(
      map(normal_name, [fact["object"], *fact.get("aliases", [])])
    )
  labels = sorted(names)
  counts = {key: np.zeros(len(labels), int) for key in ("mentions", "longest", "documents")}
  together = np.zeros(len(facts), int)
  for text in map(normal, texts):
    spans = {
      label: {
        (at, at + len(name))
        for name in names[label] - {""}
        for at in range(len(text))
        if text.startswith(name, at) and not goes_on(name, text, at)
      }
      for label in labels
    }
    taken, free = set(), 0
    for span in sorted(
      {span for found in spans.values() for span in found}, key=lambda span: (span[0], -span[1])
    ):
      if span[0] >= free:
        taken.add(span)
        free = span[1]
    for i, label in enumerate(labels):
      counts["mentions"][i] += len(spans[label])
      counts["longest"][i] += len(spans[label] & taken)
      counts["documents"][i] += bool(spans[label])
    together += [bool(spans[fact["subject"]]) and bool(spans[fact["object"]]) for fact in facts]
  return labels, {**counts, "together": together}


def check(texts, facts, folded=False):
  found = entities.entities_of(facts, folded)
  counts = entities.count_documents(texts, entities.search_of(found))
  labels, expected = brute_force(texts, facts, folded)
  assert found.labels == labels
  for name, values in expected.items():
    np.testing.assert_array_equal(counts[name], values, err_msg=name)
  assert counts["size"].tolist() == [len(texts), sum(len(text.encode()) for text in texts)]
  return found, counts


def fact(subject, answer, *aliases, **more):
  return {
    "subject": subject,
    "relation": "r",
    "object": answer,
    **({"aliases": list(aliases)} if aliases else {}),
    **more,
  }


def test_names_within_names_and_within_words():
  facts = [
    fact("New York", "York"),
    fact("New York Times", "Times", "The Times"),
    fact("'N Sync", "N"),
  ]
  texts = [
    "New York Times in New York, by York.",
    "Yorker Times The Times",
    "'N Sync and x'N Sync and N.",
    "The\nTimes",
  ]
  found, counts = check(texts, facts)
  assert dict(zip(found.labels, counts["longest"])) == {
    "'N Sync": 1,
    "N": 2,
    "New York": 1,
    "New York Times": 1,
    "Times": 3,
    "York": 1,
  }
  assert counts["together"].tolist() == [1, 1, 1]


def test_case_and_composed_letters():
  facts = [fact("Zürich", "Café")]
  texts = ["zürich and CAFÉ", "Zu\u0308rich: Cafe\u0301!"]
  assert check(texts, facts)[1]["mentions"].tolist() == [1, 1]
  assert check(texts, facts, folded=True)[1]["mentions"].tolist() == [2, 2]


def test_ambiguous_names_are_flagged():
  facts = [
    fact("A", "Paris", object_id="Q90"),
    fact("B b", "Paris", object_id="Q830149"),
    fact("C c", "Town", "Paris"),
    fact("D d", "E e"),
  ]
  found = entities.entities_of(facts)
  assert dict(zip(found.labels, found.ambiguous)) == {
    "A": "letter",
    "B b": "",
    "C c": "",
    "D d": "",
    "E e": "",
    "Paris": "several",
    "Town": "several",
  }


LETTERS = "aAéß '.-1’\u00a0\u00ad東กี\u0301"
ALPHABET = st.text(alphabet=LETTERS, min_size=1, max_size=4).filter(lambda text: text.strip())


@settings(max_examples=200, deadline=None)
@given(
  st.lists(st.tuples(ALPHABET, ALPHABET, ALPHABET), min_size=1, max_size=6),
  st.lists(st.text(alphabet=LETTERS, max_size=30), max_size=4),
  st.booleans(),
)
def test_equals_brute_force(names, texts, folded):
  check(texts, [fact(a, b, c) for a, b, c in names], folded)


def test_counting_the_world_gives_the_counts_of_the_world():
  world = make_world(5, subjects=60, answers=12, mean_mentions=4)
  found = entities.entities_of(world.facts + world.background)
  counts = dict(
    zip(
      found.labels,
      entities.count_documents(world.sentences, entities.search_of(found))["longest"].tolist(),
    )
  )
  assert {(relation, answer): counts[answer] for relation, answer in world.counts} == world.counts


@settings(max_examples=200, deadline=None)
@given(
  st.lists(st.tuples(ALPHABET, ALPHABET, ALPHABET), min_size=1, max_size=6),
  st.lists(st.text(alphabet=LETTERS, max_size=30), max_size=4),
)
def test_facts_in_documents_and_the_places_of_their_names(names, texts):
  """As many mentions of each as the longest ones that are counted, each at its name, in the
  documents that hold both.
  """

  def plain(name):
    return canonical(unicodedata.normalize("NFC", name)).strip()

  facts = [fact(a, b, c) for a, b, c in names]
  found = entities.entities_of(facts)
  search, expected = entities.search_of(found), []
  for text in texts:
    longest = dict(zip(found.labels, entities.count_documents([text], search)["longest"].tolist()))
    expected += [
      (
        unicodedata.normalize("NFC", text),
        number,
        longest[one["subject"]],
        longest[one["object"]],
      )
      for number, one in enumerate(facts)
      if longest[one["subject"]] and longest[one["object"]]
    ]
  got = list(entities.facts_in(texts, search))
  assert sorted(
    (text, number, len(subjects), len(objects)) for text, number, subjects, objects in got
  ) == sorted(expected)
  names_of = collections.defaultdict(set)
  for one in facts:
    names_of[one["subject"]].add(plain(one["subject"]))
    names_of[one["object"]].update(map(plain, [one["object"], *one["aliases"]]))
  for text, number, subjects, objects in got:
    assert {plain(text[a:b]) for a, b in subjects} <= names_of[facts[number]["subject"]]
    assert {plain(text[a:b]) for a, b in objects} <= names_of[facts[number]["object"]]


TEXT = """\
Paris Paris-Nord Paris's "Paris" Parisian Paris_1
istanbul İstanbul ISTANBUL İSTANBUL
東京は日本の首都。東京都
New York and New\u00a0York and New  York and New\u2009York and New York City
L'Aquila L’Aquila
हिन्दी हिन्द
STRASSE straße Strasse Straße
Jean-Luc Jean‑Luc
I like C++ and C++11 and (C++).
O'Brien O’Brien
ครูกรุงเทพฯ 東京2020 Tokyo東京Tokyo กี
co\u00adoperate \ufeffBOM
"""
RIGHT = {  # mentions: case kept, folded
  "Paris": (4, 4),
  "İstanbul": (1, 2),
  "東京": (4, 4),
  "日本": (1, 1),
  "New York": (5, 5),
  "L'Aquila": (2, 2),
  "हिन्द": (1, 1),
  "Straße": (1, 4),
  "Jean-Luc": (2, 2),
  "C++": (2, 2),
  "O’Brien": (2, 2),
  "กรุงเทพ": (1, 1),
  "Tokyo": (2, 2),
  "ก": (1, 1),  # of กรุง; in กี a vowel sign goes on
  "cooperate": (1, 1),
  "BOM": (1, 1),
  "\u200b": (0, 0),
}


def test_spaces_apostrophes_hyphens_marks_and_scripts_without_spaces():
  facts = [fact(label, "Nothing") for label in RIGHT]
  for folded in (False, True):
    found, counts = check(TEXT.split("\n"), facts, folded)
    mentions = dict(zip(found.labels, counts["mentions"].tolist()))
    assert mentions == {label: right[folded] for label, right in RIGHT.items()} | {"Nothing": 0}
  flagged = {label for label, why in zip(found.labels, found.ambiguous) if "script" in why}
  assert flagged == {"東京", "日本", "กรุงเทพ", "ก"}


def test_no_documents_and_no_mentions():
  check([], [fact("A b", "C d")])
  check(["nothing here", ""], [fact("A b", "C d")])


def test_equals_brute_force_on_real_sentences(data_dir):
  """A sample of 60 sentences with all names of two relations; whole chunks give the same as
  documents one by one.
  """
  facts = sources.read(f"trex:{data_dir}/trex/test.jsonl.gz?relations=P463,P108").facts
  texts = list(documents.read(f"{data_dir}/trex_wikipedia/trex_evidence_sentences.tsv.gz"))[::1700]
  check(texts, facts)
