"""The controls without a language model against their definitions."""

import numpy as np

from factshock.facts import baselines, sources, splits

FACTS = [
  {"subject": "Nokia Lumia", "relation": "by", "object": "Nokia"},
  {"subject": "Nokia X", "relation": "by", "object": "Nokia"},
  {"subject": "Apple Watch", "relation": "by", "object": "Apple"},
  {"subject": "iPod", "relation": "by", "object": "Apple"},
  {"subject": "Galaxy X", "relation": "by", "object": "Samsung"},
  {"subject": "Rome", "relation": "in", "object": "Italy"},
]
CANDIDATES = {"by": ["Apple", "Nokia", "Samsung", "Sony"], "in": ["Italy", "France"]}


def test_naive_bayes_is_bayes_rule_with_smoothing():
  (scores,) = baselines.naive_bayes(
    FACTS, [{"relation": "by", "subject": "apple X one"}], CANDIDATES, smoothing=0.5
  )
  words = 7  # nokia lumia x apple watch ipod galaxy
  counts = {
    "Apple": (2, {"apple": 1}, 3),
    "Nokia": (2, {"x": 1}, 4),
    "Samsung": (1, {"x": 1}, 2),
    "Sony": (0, {}, 0),
  }
  expected = np.array(
    [
      (prior + 0.5)
      * np.prod(
        [(found.get(word, 0) + 0.5) / (total + 0.5 * (words + 1)) for word in ("apple", "x")]
      )
      for prior, found, total in (counts[name] for name in CANDIDATES["by"])
    ]
  )
  np.testing.assert_allclose(np.exp(scores), expected / expected.sum(), rtol=1e-9)


def test_majority_is_by_relation():
  found = baselines.majority(FACTS, CANDIDATES)
  assert (
    np.argsort(-found["by"], kind="stable").tolist() == [0, 1, 2, 3] and found["in"].argmax() == 0
  )
  np.testing.assert_allclose(np.exp(found["by"]).sum(), 1)


def test_both_answer_real_facts_better_than_chance(data_dir):
  """Trained on half of LAMA T-REx and asked the other: names tell something, the commonest answer
  as well.
  """
  facts = sources.read(f"trex:{data_dir}/trex/test.jsonl.gz?relations=P176,P108").facts
  parts = splits.split_subjects(facts, {"pool": 0.5, "test": 0.5}, 0)
  candidates = {
    relation: sorted({fact["object"] for fact in facts if fact["relation"] == relation})
    for relation in ("P176", "P108")
  }
  bayes = baselines.naive_bayes(parts["pool"], parts["test"], candidates)
  most = baselines.majority(parts["pool"], candidates)
  right = lambda scores, fact: candidates[fact["relation"]][int(scores.argmax())] == fact["object"]
  by_name = np.mean([right(scores, fact) for scores, fact in zip(bayes, parts["test"])])
  by_count = np.mean([right(most[fact["relation"]], fact) for fact in parts["test"]])
  assert by_name > by_count > 1 / min(map(len, candidates.values()))
