"""Ranking against scoring each (query, candidate) pair alone; batching, meshes, compilations, bad
input.
"""

import dataclasses
import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factshock.answering import batches, ranking, tries
from factshock.checkpoints.loading import LoadedModel
from factshock.data.tokenizers import word_tokenizer
from factshock.devices import partitioning
from factshock.models import t5
from factshock.runtime.errors import UserError

WORDS = [f"w{number}" for number in range(30)]
TOKENIZER = word_tokenizer(WORDS, 5)
CONFIG = t5.T5Config(
  vocab_size=TOKENIZER.size,
  d_model=16,
  d_ff=24,
  num_heads=2,
  d_kv=8,
  encoder_layers=1,
  decoder_layers=2,
)
CANDIDATES = {
  "single": ["w1", "w2", "w7", "w3"],
  "prefixes": ["w4", "w4 w5", "w4 w5 w6", "w9 w5 w6 w7", "w9 w5", "w8", "w4 w6"],
  "other": ["w1 w2 w3 w4 w5 w6", "w1 w2 w3 w4 w5 w7", "w0"],
}
PROMPTS = [
  "w1 w2 <extra_id_0> w3",
  "<extra_id_0>",
  "w9 w8 w7 w6 w5 w4 <extra_id_0>",
  "w3 <extra_id_0>",
  "w5 w5 <extra_id_0> w0 w9",
  "w29 w28 w27 <extra_id_0>",
  "w1 <extra_id_0> w1",
]
KEYS = ["single", "prefixes", "other", "prefixes", "single", "other", "prefixes"]


def loaded(params):
  """The model of this file with these weights."""
  return LoadedModel(params, CONFIG, TOKENIZER)


@pytest.fixture(scope="module")
def params():
  return make_params(0)


@functools.cache
def make_params(seed, config=CONFIG):
  # a bias and a head of some size, so that order, distance and tokens all tell in the scores
  params = t5.init(config, jax.random.key(seed))
  return jax.tree.map(lambda x: x * 2 if x.ndim > 1 else x, params)


forward = jax.jit(t5.forward, static_argnums=1)


def padded(tokens, length):
  return jnp.array([[*tokens] + [0] * (length - len(tokens))], jnp.int32)


def pair_score(params, config, prompt, sequence, closing=()):
  """log P(targets begin with the sequence, and then any of the closing tokens), of one pair."""
  inputs = padded(batches.encode_prompt(loaded(None), prompt), 14)
  logits = forward(params, config, inputs, padded([*sequence, *closing[:1]], 9))
  log_p = np.asarray(jax.nn.log_softmax(logits))[0].astype(np.float64)
  score = sum(log_p[place, token] for place, token in enumerate(sequence))
  return score + (np.log(np.exp(log_p[len(sequence), list(closing)]).sum()) if closing else 0)


def brute_force(params, config, prompt, names):
  scores = []
  for name in names:
    continued = any(other != name and other.startswith(name + " ") for other in names)
    closing = (TOKENIZER.eos, TOKENIZER.sentinel(1)) if continued else ()
    scores.append(
      pair_score(params, config, prompt, TOKENIZER.encode("<extra_id_0> " + name), closing)
    )
  return np.array(scores)


@pytest.mark.parametrize(
  "change",
  [
    {},
    {"feed_forward": "relu", "tie_head": True, "decoder_layers": 1},
    {"bias_in_every_layer": True},
  ],
)
def test_equals_scoring_each_pair_alone(change):
  config = dataclasses.replace(CONFIG, **change)
  params = make_params(1, config)
  scores = ranking.rank(
    LoadedModel(params, config, TOKENIZER), PROMPTS, KEYS, CANDIDATES, batch_size=8
  )
  for prompt, key, got in zip(PROMPTS, KEYS, scores):
    expected = brute_force(params, config, prompt, CANDIDATES[key])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_ranking_says_how_far_it_is(params, monkeypatch, capsys):
  loud = functools.partial(ranking.Progress, every=0.0)
  monkeypatch.setattr(ranking, "Progress", loud)
  ranking.rank(loaded(params), PROMPTS, KEYS, CANDIDATES, batch_size=2)
  total = sum(len(CANDIDATES[key]) for key in KEYS)
  last = capsys.readouterr().err.splitlines()[-1]
  assert last.startswith(f"  ranking, answers scored {total}/{total} 100%")


def test_scores_do_not_depend_on_batch_size_or_company(params):
  together = ranking.rank(loaded(params), PROMPTS, KEYS, CANDIDATES)
  apart = ranking.rank(loaded(params), PROMPTS, KEYS, CANDIDATES, batch_size=2)
  for one, other in zip(together, apart):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
  alone = ranking.rank(loaded(params), PROMPTS[2:3], KEYS[2:3], {"other": CANDIDATES["other"]})
  np.testing.assert_allclose(alone[0], together[2], rtol=1e-4, atol=1e-5)


def test_candidates_cut_into_several_tries_score_the_same(params, monkeypatch):
  whole = ranking.rank(loaded(params), PROMPTS, KEYS, CANDIDATES)
  build = tries.build
  monkeypatch.setattr(tries, "build", lambda sequences, closing: build(sequences, closing, 5))
  queries = ranking.prepare(loaded(None), PROMPTS, KEYS, CANDIDATES)
  assert len(queries.tries["prefixes"]) > 1
  for one, other in zip(whole, ranking.rank_prepared(loaded(params), queries)):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_queries_whose_logits_are_made_in_parts_score_the_same(params, monkeypatch):
  whole = ranking.rank(loaded(params), PROMPTS, KEYS, CANDIDATES)
  monkeypatch.setattr(ranking, "LOGIT_BYTES", {"cpu": 1})
  assert [ranking.count_parts(count, 10, 1) for count in (1, 6)] == [1, 6]
  for one, other in zip(whole, ranking.rank(loaded(params), PROMPTS, KEYS, CANDIDATES)):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
  monkeypatch.setattr(ranking, "LOGIT_BYTES", {"cpu": 30})
  assert [ranking.count_parts(count, 10, 1) for count in (1, 3, 4, 7, 12)] == [
    1,
    1,
    2,
    7,
    4,
  ] and ranking.count_parts(12, 10, 4) == 1


def test_a_mesh_gives_the_same_scores(params):
  queries = ranking.prepare(loaded(None), PROMPTS[1:4], KEYS[1:4], CANDIDATES)
  one = ranking.rank_prepared(loaded(params), queries)
  mesh = partitioning.make_mesh(devices=jax.devices()[:3])
  for alone, shared in zip(
    one, ranking.rank_prepared(LoadedModel(params, CONFIG, TOKENIZER, mesh), queries)
  ):
    np.testing.assert_allclose(alone, shared, rtol=1e-4, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(
  st.lists(
    st.lists(st.sampled_from(["w1", "w2", "w3"]), min_size=1, max_size=4).map(" ".join),
    min_size=1,
    max_size=25,
    unique=True,
  )
)
def test_probabilities_of_a_relation_add_up_to_at_most_one(names):
  params = make_params(2)
  # a model that says little but the start and these three words: the sum comes near 1
  head = params["head"] * 0
  params = dict(params, head=head)
  scores = ranking.rank(loaded(params), ["w1 <extra_id_0>"], ["r"], {"r": names})[0]
  assert np.exp(scores).sum() <= 1 + 1e-5
  # every token has p = 1 / V under this head, so the scores are known
  parts = [name.split() for name in names]
  for words, score in zip(parts, scores):
    continued = any(len(other) > len(words) and other[: len(words)] == words for other in parts)
    expected = -(len(words) + 1 + continued) * np.log(TOKENIZER.size) + continued * np.log(2)
    np.testing.assert_allclose(score, expected, rtol=1e-5)


def test_all_texts_of_a_closed_language_add_up_to_one():
  """With p = 1/2 for each of two words, the texts of two words hold all the probability."""
  params = jax.tree.map(jnp.zeros_like, make_params(0))
  sequences = [(a, b) for a in (3, 4) for b in (3, 4)]
  config = dataclasses.replace(CONFIG, vocab_size=2)
  params = dict(params, embedding=params["embedding"][:2], head=params["head"][:2])
  grown = tries.build([(a - 3, b - 3) for a, b in sequences], 1)
  inputs = jnp.ones((1, 4), jnp.int32)
  cache, first = ranking.start(params, config, inputs)
  scores = ranking._score(
    params, config, 1, cache, first, np.array([9, 9]), grown[0]._replace(members=())
  )
  assert np.exp(np.asarray(scores[0, :4])).sum() == pytest.approx(1)


sequence_sets = st.lists(
  st.lists(st.integers(2, 5), min_size=1, max_size=5).map(tuple), min_size=1, max_size=40
)


@settings(max_examples=100, deadline=None)
@given(sequence_sets, st.integers(2, 12))
def test_tries_hold_each_sequence_once_and_each_context_once(sequences, limit):
  grown = tries.build(sequences, 1, limit)
  assert sorted(member for trie in grown for member in trie.members) == list(range(len(sequences)))
  for trie in grown:
    contexts = {}
    for row, member in enumerate(trie.members):
      used = trie.used_CxL[row]
      tokens = tuple(trie.next_CxL[row][used].tolist())
      continued = any(
        other[: len(sequences[member])] == sequences[member] and other != sequences[member]
        for other in sequences
      )
      assert tokens == sequences[member] + (1,) * continued
      for end, node in enumerate(trie.nodes_CxL[row][used].tolist()):
        assert contexts.setdefault(tokens[:end], node) == node
        assert trie.tokens_M[node] == (tokens[end - 1] if end else 0)
        for start in range(end + 1):
          assert trie.distance_MxM[node, trie.nodes_CxL[row][start]] == end - start
        assert (trie.distance_MxM[node] >= 0).sum() == end + 1
    assert len(set(contexts.values())) == len(contexts)
    assert len(contexts) <= limit or len(trie.members) == 1


def test_single_token_candidates_take_two_contexts_whatever_their_number():
  grown = tries.build([(9, token) for token in range(300)], 1)
  assert len(grown) == 1 and grown[0].tokens_M.tolist() == [0, 9]


def test_other_weights_compile_nothing(params):
  queries = ranking.prepare(loaded(None), PROMPTS, KEYS, CANDIDATES)
  first = ranking.rank_prepared(loaded(params), queries)
  before = ranking.start._cache_size(), ranking._score._cache_size()
  second = ranking.rank_prepared(loaded(make_params(5)), queries)
  ranking.rank(loaded(make_params(6)), PROMPTS, KEYS, CANDIDATES)
  ranking.rank_prepared(loaded(jax.tree.map(np.asarray, params)), queries)
  assert (ranking.start._cache_size(), ranking._score._cache_size()) == before
  assert not np.allclose(first[0], second[0])


def test_relations_of_like_sizes_share_what_is_compiled(params):
  names = {
    f"r{number}": [f"w{word}" for word in range(number, number + 17 + number)]
    for number in range(4)
  }
  ranking._score.clear_cache()
  ranking.rank(loaded(params), ["w1 <extra_id_0>"] * 4, list(names), names, batch_size=4)
  assert ranking._score._cache_size() == 1


def test_candidates_that_tokenize_alike_score_alike(params):
  names = {"r": ["unknown", "w1", "unheard"]}
  scores = ranking.rank(loaded(params), ["<extra_id_0>"], ["r"], names)[0]
  assert scores[0] == scores[2] != scores[1]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 700), st.integers(1, 256))
def test_batches_hold_every_place_once_and_have_few_sizes(count, size):
  parts = batches.split(list(range(count)), size)
  assert [place for part, _ in parts for place in part] == list(range(count))
  assert all(1 <= len(part) <= rows <= size for part, rows in parts)
  assert sum(rows - len(part) for part, rows in parts) <= size // 4 + 6
  assert len({rows for _, rows in parts}) <= 4


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 700), st.integers(1, 1024))
def test_an_accelerator_compiles_fewer_sizes(count, size):
  with mock.patch.object(batches, "device", lambda: "other"):
    parts = batches.split(list(range(count)), size)
  assert [place for part, _ in parts for place in part] == list(range(count))
  assert all(1 <= len(part) <= rows <= size for part, rows in parts)
  assert len({rows for _, rows in parts}) <= 3


@pytest.mark.parametrize(
  "prompts, keys, candidates, error, words",
  [
    (["<extra_id_0>"], ["r"], {"r": []}, UserError, "'r'.*candidate answers, got none"),
    (["<extra_id_0>"], ["x"], {"r": ["w1"]}, UserError, "'x'.*candidate answers, got none"),
    (["<extra_id_0>"], ["r"], {"r": ["w1", " "]}, UserError, "at least one token, got ' '"),
    (["w1"], ["r"], {"r": ["w1"]}, UserError, "<extra_id_0> where the answer goes"),
    (
      ["w1 " * 2000 + "<extra_id_0>"],
      ["r"],
      {"r": ["w1"]},
      UserError,
      "at most 1024 tokens, got 2002",
    ),
    (["<extra_id_0>"], [], {"r": ["w1"]}, ValueError, "one relation a prompt"),
  ],
)
def test_bad_input(prompts, keys, candidates, error, words):
  with pytest.raises(error, match=words):
    ranking.prepare(loaded(None), prompts, keys, candidates)


def test_a_model_of_another_vocabulary_is_refused(params):
  small = dataclasses.replace(CONFIG, vocab_size=TOKENIZER.size - 1)
  with pytest.raises(UserError, match="tokenizer the checkpoint was trained with"):
    ranking.rank(LoadedModel(params, small, TOKENIZER), PROMPTS, KEYS, CANDIDATES)
