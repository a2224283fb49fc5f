"""Prompts: the text forms, and shots that never tell the query's own answer."""

import numpy as np
import pytest

from factshock.data import prompts, tokenizers
from factshock.runtime.errors import UserError

RELATIONS = {
  "P19": {
    "relation": "P19",
    "label": "place of birth",
    "type": "N-1",
    "statements": ["[X] was born in [Y] .", "[Y] is where [X] was born ."],
    "questions": ["in which city was [X] born ?"],
  },
  "P27": {
    "relation": "P27",
    "label": "citizenship",
    "type": "N-1",
    "statements": ["[X] is [Y] citizen ."],
    "questions": [],
  },
}
FACT = {"subject": "Ada Byron", "relation": "P19", "object": "London"}
POOL = [{"subject": f"S {i}", "relation": "P19", "object": f"city {i % 3}"} for i in range(20)]


def test_forms():
  assert prompts.cloze_prompt(FACT, RELATIONS) == "Ada Byron was born in <extra_id_0> ."
  assert (
    prompts.cloze_prompt(FACT, RELATIONS, template=1)
    == "<extra_id_0> is where Ada Byron was born ."
  )
  assert (
    prompts.question_prompt(FACT, RELATIONS) == "in which city was Ada Byron born ? <extra_id_0>"
  )
  assert prompts.question_prompt({**FACT, "question": "Ada's birthplace ?"}, RELATIONS) == (
    "Ada's birthplace ? <extra_id_0>"
  )
  tokenizer = tokenizers.word_tokenizer(["London"], 4)
  assert prompts.target_text(tokenizer, "London") == "<extra_id_0> London"


def test_k_shot():
  assert prompts.k_shot_prompt(FACT, RELATIONS, POOL[:2]) == (
    "in which city was S 0 born ? city 0 in which city was S 1 born ? city 1 "
    "in which city was Ada Byron born ? <extra_id_0>"
  )
  assert prompts.k_shot_prompt(FACT, RELATIONS, []) == prompts.question_prompt(FACT, RELATIONS)


def test_k_shot_of_statements():
  assert prompts.k_shot_prompt(FACT, RELATIONS, POOL[:1], form="cloze") == (
    "S 0 was born in city 0 . Ada Byron was born in <extra_id_0> ."
  )


def test_shots_are_of_the_relation_and_other_subjects():
  other = {"subject": "T", "relation": "P27", "object": "French"}
  pool = POOL + [FACT, {**FACT, "object": "Rome"}, other, POOL[3]]
  shots = prompts.choose_shots(FACT, pool, 20, seed=0)
  assert {shot["subject"] for shot in shots} == {fact["subject"] for fact in POOL} and len(
    shots
  ) == 20


def test_shots_are_a_function_of_seed_and_subject():
  chosen = [
    prompts.choose_shots({**FACT, "subject": subject}, POOL, 3, seed)
    for subject in ("Ada Byron", "Al Khwarizmi")
    for seed in range(3)
  ]
  assert chosen[0] == prompts.choose_shots(FACT, POOL, 3, 0)
  assert len({str(shots) for shots in chosen}) == 6


def test_too_few_shots():
  with pytest.raises(
    UserError, match="at least 1 facts about subjects other than 'Ada Byron'.* got 0"
  ):
    prompts.choose_shots(FACT, [FACT], 1, seed=0)


def test_encode_example():
  tokenizer = tokenizers.word_tokenizer("in which city was Ada Byron born ? London".split(), 4)
  example = prompts.encode_example(tokenizer, prompts.question_prompt(FACT, RELATIONS), "London")
  assert example["inputs"].tolist() == [3, 4, 5, 6, 7, 8, 9, 10, 15, 1]
  assert example["targets"].tolist() == [15, 11, 1]
  assert example["inputs"].dtype == example["targets"].dtype == np.int32


def test_bad_facts_and_relations():
  tokenizer = tokenizers.word_tokenizer(["a"], 4)
  with pytest.raises(UserError, match="expected <extra_id_0> once, got it 0 times"):
    prompts.encode_example(tokenizer, "a", "a")
  with pytest.raises(UserError, match="at least one token, got ' '"):
    prompts.encode_example(tokenizer, "a <extra_id_0>", " ")
  with pytest.raises(UserError, match="got 'P99'"):
    prompts.cloze_prompt({**FACT, "relation": "P99"}, RELATIONS)
  with pytest.raises(UserError, match="below 2, got 2"):
    prompts.cloze_prompt(FACT, RELATIONS, template=2)
  with pytest.raises(UserError, match="expected `questions`.*are asked by the prompt cloze"):
    prompts.question_prompt({**FACT, "relation": "P27"}, RELATIONS)
