"""Sets of facts of all seeds, checked before there is work of the first."""

import pytest
import tiny_own

from factshock.runtime.errors import UserError
from factshock.study import study_data


def study(facts, seeds):
  config = tiny_own.get_config()
  config.seeds = seeds
  config.arms = {"a": {"kind": "finetune", "facts": "high_mismatch"}}
  config.split.update(dict(pool=0.5, development=0.1, test=0.4))
  config.mismatch.update(dict(high=0.3, size=8))
  counts = {("born_in", fact["object"]): 1 for fact in facts}
  return study_data.StudyData(facts, [], {}, [], counts), config


def test_a_set_that_a_later_seed_cannot_make_is_said_at_once():
  facts = [
    {"subject": f"s{i}", "relation": "born_in", "object": "Rome" if i % 3 else f"o{i}"}
    for i in range(60)
  ]
  made = []
  for seed in range(40):
    data, config = study(facts, (seed,))
    try:
      study_data.make_sets(data, config, seed)
      made.append(True)
    except UserError:
      made.append(False)
  assert True in made and False in made, "the data tell seeds apart"
  possible, not_possible = made.index(True), made.index(False)
  data, config = study(facts, (possible,))
  study_data.check_seeds(data, config)
  data, config = study(facts, (possible, not_possible))
  with pytest.raises(UserError, match=rf"seed {not_possible}: config.mismatch: 8 facts"):
    study_data.check_seeds(data, config)
