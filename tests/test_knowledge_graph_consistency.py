"""Consistency: what contradicts what, which statement stays, and what follows."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factshock.knowledge_graph import consistency
from factshock.knowledge_graph.consistency import Triple
from factshock.runtime.errors import UserError

RULES = {
  "born_in": {"type": "N-1", "object_type": "city"},
  "capital_of": {"type": "1-1", "inverse": "capital"},
  "capital": {"type": "1-1"},
  "married_to": {"type": "1-1", "symmetric": True},
  "speaks": {"type": "N-M"},
  "parent": {"type": "N-M", "inverse": "child"},
  "child": {"type": "N-M"},
}


def resolve(*triples, types=None, asked=()):
  triples = [Triple(*triple, place) for place, triple in enumerate(triples)]
  return consistency.resolve(triples, consistency.complete_rules(RULES), types or {}, set(asked))


def said(triples):
  return [(one.subject, one.relation, one.object) for one in triples]


def test_a_functional_relation_has_one_object():
  kept, _, conflicts = resolve(
    ("ada", "born_in", "rome", 0.6),
    ("ada", "born_in", "oslo", 0.9),
    ("ada", "speaks", "x", 0.5),
    ("ada", "speaks", "y", 0.5),
  )
  assert said(kept) == [("ada", "born_in", "oslo"), ("ada", "speaks", "x"), ("ada", "speaks", "y")]
  assert [(one.kind, one.dropped.object, one.kept.object) for one in conflicts] == [
    ("functional", "rome", "oslo")
  ]


def test_one_object_of_a_one_to_one_relation_has_one_subject():
  kept, _, conflicts = resolve(
    ("oslo", "capital_of", "norway", 0.9), ("bergen", "capital_of", "norway", 0.7)
  )
  assert said(kept) == [("oslo", "capital_of", "norway")] and conflicts[0].kind == "functional"


def test_inverse_relations_agree():
  kept, _, conflicts = resolve(
    ("oslo", "capital_of", "norway", 0.6), ("norway", "capital", "bergen", 0.8)
  )
  assert said(kept) == [("norway", "capital", "bergen")]
  assert (conflicts[0].kind, conflicts[0].kept.object) == ("inverse", "bergen")
  kept, _, conflicts = resolve(
    ("oslo", "capital_of", "norway", 0.6), ("Norway", "capital", "Oslo", 0.8)
  )
  assert len(kept) == 2 and not conflicts


def test_symmetric_relations_agree():
  kept, _, conflicts = resolve(
    ("a", "married_to", "b", 0.9), ("b", "married_to", "c", 0.5), ("c", "married_to", "d", 0.4)
  )
  assert said(kept) == [("a", "married_to", "b"), ("c", "married_to", "d")]
  assert conflicts[0].kind == "symmetric"


def test_what_was_asked_and_follows_is_implied():
  _, implied, _ = resolve(
    ("oslo", "capital_of", "norway", 0.9), asked=[("norway", "capital"), ("oslo", "capital_of")]
  )
  assert [tuple(one) for one in implied] == [("norway", "capital", "oslo", 0.9, None)]
  _, implied, _ = resolve(("oslo", "capital_of", "norway", 0.9), asked=[("sweden", "capital")])
  assert not implied
  _, implied, _ = resolve(
    ("a", "parent", "b", 0.9), ("b", "child", "c", 0.8), asked=[("b", "child"), ("c", "parent")]
  )
  assert said(implied) == [("b", "child", "a"), ("c", "parent", "b")]


def test_types_fit_where_they_are_known():
  kept, _, conflicts = resolve(
    ("ada", "born_in", "tuesday", 0.9),
    ("bob", "born_in", "oslo", 0.5),
    ("cid", "born_in", "unknown", 0.5),
    types={"tuesday": {"day"}, "oslo": {"city", "port"}},
  )
  assert said(kept) == [("bob", "born_in", "oslo"), ("cid", "born_in", "unknown")]
  assert conflicts[0].kind == "type" and conflicts[0].reason == "tuesday is day, not city"


def contradictions(triples):
  """What breaks a rule, said apart from the code: of all pairs of statements and their mirrors."""
  stated = set()
  for subject, relation, object in said(triples):
    stated.add((subject, relation, object))
    rule = consistency.complete_rules(RULES)[relation]
    if rule.get("symmetric"):
      stated.add((object, relation, subject))
    if rule.get("inverse"):
      stated.add((object, rule["inverse"], subject))
  for (a, r, b), (c, s, d) in itertools.combinations(sorted(stated), 2):
    kind = RULES[r]["type"]
    if r == s and (
      (kind in ("1-1", "N-1") and a == c and b != d) or (kind == "1-1" and b == d and a != c)
    ):
      yield (a, r, b), (c, s, d)


@settings(max_examples=150, deadline=None)
@given(
  st.lists(
    st.tuples(
      st.sampled_from("abcd"),
      st.sampled_from(sorted(RULES)),
      st.sampled_from("abcd"),
      st.floats(0, 1),
    ),
    max_size=14,
    unique_by=lambda one: one[:3],
  )
)
def test_what_is_kept_never_contradicts_and_is_as_much_as_can_be(triples):
  asked = {(subject, relation) for subject, relation, _, _ in triples} | {
    (object, relation) for _, relation, object, _ in triples
  }
  kept, implied, conflicts = resolve(*triples, asked=asked)
  assert not list(contradictions(kept + implied))
  assert len(kept) + len(conflicts) == len(triples)
  for conflict in conflicts:
    assert conflict.kept.confidence >= conflict.dropped.confidence
    assert list(contradictions(kept + [conflict.dropped]))


def test_rules_that_make_no_sense_are_refused():
  with pytest.raises(UserError, match="got 'nowhere'"):
    consistency.complete_rules({"a": {"inverse": "nowhere"}})
  with pytest.raises(UserError, match="has the inverse 'b'"):
    consistency.complete_rules(
      {"a": {"inverse": "b"}, "b": {}, "c": {"inverse": "b"}} | {"b": {"inverse": "b"}}
    )
  with pytest.raises(UserError, match="true or false"):
    consistency.complete_rules({"a": {"symmetric": "yes"}})


def test_types_file(tmp_path):
  path = tmp_path / "types.tsv"
  path.write_text("entity\ttype\noslo\tcity\noslo\tport\n")
  assert consistency.read_types(path) == {"oslo": {"city", "port"}}
  path.write_text("entity\ttype\noslo city\n")
  with pytest.raises(UserError, match=":2: expected an entity, a tab and a type"):
    consistency.read_types(path)
  path.write_text("oslo\tcity\n")
  with pytest.raises(UserError, match="header"):
    consistency.read_types(path)
