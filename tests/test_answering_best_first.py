"""The best candidates, searched: against brute force with a toy scorer, and the scores of all."""

import dataclasses
import functools

import hf_llama
import hf_tokenizers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factshock.answering import best_first, prefix_trees, ranking, tries
from factshock.checkpoints.loading import LoadedModel
from factshock.data import pretrained_tokenizers
from factshock.data.tokenizers import word_tokenizer
from factshock.devices import partitioning
from factshock.models import decoder, t5
from factshock.predictions import writing
from factshock.runtime.errors import UserError

END = 1
LABELS = {"arm": "a", "seed": 0, "split": "s"}
sequence_sets = st.lists(
  st.lists(st.integers(2, 5), min_size=1, max_size=5).map(tuple), min_size=1, max_size=60
)


@settings(max_examples=100, deadline=None)
@given(sequence_sets)
def test_a_tree_holds_each_prefix_once_and_each_candidate_where_it_ends(sequences):
  tree = prefix_trees.build(sequences, END)
  closed = tries.close(sequences, END)
  texts = [()]
  for parent, token in zip(tree.parent_P[1:], tree.token_P[1:]):
    texts.append((*texts[parent], token))
  assert set(texts) == {sequence[:end] for sequence in closed for end in range(len(sequence) + 1)}
  assert len(texts) == len(set(texts)) and tree.depth_P.tolist() == list(map(len, texts))
  for prefix, text in enumerate(texts):
    kids = tree.kids[tree.first_kid_P[prefix] : tree.first_kid_P[prefix + 1]]
    assert {texts[kid] for kid in kids} == {t for t in texts if t[:-1] == text and t}
    members = tree.members[tree.first_member_P[prefix] : tree.first_member_P[prefix + 1]]
    assert members.tolist() == [place for place, end in enumerate(closed) if end == text]
  assert tree.contexts == len({text[:-1] for text in texts[1:]})


@settings(max_examples=100, deadline=None)
@given(sequence_sets)
def test_a_sequence_that_goes_on_is_closed_and_no_other(sequences):
  for sequence, closed in zip(sequences, tries.close(sequences, END)):
    continued = any(o[: len(sequence)] == sequence and o != sequence for o in sequences)
    assert closed == sequence + (END,) * continued


def toy_log_p(row, context, token, seed):
  """Few values, so that there are ties, and now and then one that is impossible."""
  value = hash((seed, row, context, token)) % 9
  return -np.inf if value == 8 else -0.5 * (value % 4)


class Toy:
  """Answers rounds of a search from toy_log_p, and counts what is asked."""

  def __init__(self, monkeypatch, seed):
    self.seed = seed
    self.contexts = []
    monkeypatch.setattr(ranking, "start", lambda params, config, inputs: (None, inputs[:, 0]))
    monkeypatch.setattr(best_first, "_take", lambda config, cache, first, rows: (None, first[rows]))
    monkeypatch.setattr(best_first, "_read", self.read)

  def read(self, params, config, parts, cache, first_B, asked, ends):
    tokens, distance, nodes, following = asked
    found = np.full(nodes.shape, np.nan, np.float32)
    for row, column in np.ndindex(nodes.shape):
      node = nodes[row, column]
      above = distance[row, node]
      by_depth = sorted(np.flatnonzero(above > 0), key=lambda other: -above[other])
      path = [*by_depth, node] if node else []
      context = tuple(int(tokens[row, other]) for other in path if other)
      self.contexts.append((int(first_B[row]), context))
      found[row, column] = toy_log_p(
        int(first_B[row]), context, int(following[row, column]), self.seed
      )
    return found


class Sizes:
  vocab_size = 8


@settings(max_examples=60, deadline=None)
@given(sequence_sets, st.integers(1, 12), st.integers(1, 20), st.integers(0, 1000))
def test_equals_brute_force_with_ties(sequences, top, count, seed):
  with pytest.MonkeyPatch.context() as monkeypatch:
    toy = Toy(monkeypatch, seed)
    tree = prefix_trees.build(sequences, END)
    inputs = np.arange(count, dtype=np.int32)[:, None]
    batch = ranking.QueryBatch("r", tuple(range(count)), inputs)
    sizes = (len(sequences),) * count
    queries = ranking.Queries((batch,), {}, {"r": tree}, top, sizes, np.array([END]), 8)
    model = LoadedModel({}, Sizes(), None)
    search = best_first._Search(model, {}, lambda array: array, queries, batch)
    listed = dict(search.run())
  assert sorted(listed) == list(range(count))
  closed = tries.close(sequences, END)
  for row, answers in listed.items():
    scores = np.array(
      [
        sum(toy_log_p(row, text[:end], text[end], toy.seed) for end in range(len(text)))
        for text in closed
      ]
    )
    kth = np.sort(scores)[-min(top, len(scores))]
    places = sorted(answers.places.tolist())
    assert places == np.flatnonzero(scores >= kth).tolist()
    np.testing.assert_allclose(answers.scores, scores[answers.places])


@settings(max_examples=200, deadline=None)
@given(
  st.lists(
    st.one_of(
      st.sampled_from([-1.0, -2.5, -10.00004, -10.00005, -np.inf]), st.floats(-30, 0, width=32)
    ),
    min_size=1,
    max_size=30,
  ),
  st.integers(1, 12),
)
def test_rows_of_the_best_are_those_of_all(scores, top):
  scores = np.array(scores, np.float32)
  names = [f"n{hash(place) % 97}-{place}" for place in range(len(scores))]
  facts = [{"subject": "s", "relation": "r", "object": names[0]}]
  best = [best_first._best_of_all(scores, top)]
  whole = writing.prediction_rows(facts, {"r": names}, [scores], top=top, **LABELS)
  assert writing.best_rows(facts, {"r": names}, best, top=top, **LABELS) == whole
  assert best[0].best == int(scores.argmax())
  every = writing.prediction_rows(facts, {"r": names}, [scores], top=None, **LABELS)
  assert writing.shortened(every, top) == whole


WORDS = [f"w{number}" for number in range(12)]
T5_TOKENIZER = word_tokenizer(WORDS, 5)
NAMES = sorted(
  {" ".join(f"w{place % base}" for base in range(2, 3 + place % 5)) for place in range(90)}
)


@functools.cache
def t5_model():
  config = t5.T5Config(
    vocab_size=T5_TOKENIZER.size,
    d_model=16,
    d_ff=24,
    num_heads=2,
    d_kv=8,
    encoder_layers=1,
    decoder_layers=2,
  )
  params = t5.init(config, jax.random.key(0))
  params = jax.tree.map(lambda leaf: leaf * 2 if leaf.ndim > 1 else leaf, params)
  return LoadedModel(params, config, T5_TOKENIZER)


@pytest.fixture(scope="module")
def decoder_model(tmp_path_factory):
  folder = hf_tokenizers.llama_like(tmp_path_factory.mktemp("tokenizer"))
  tokenizer = pretrained_tokenizers.load(folder)
  config = decoder.LlamaConfig(
    vocab_size=tokenizer.size,
    d_model=16,
    d_ff=24,
    num_heads=4,
    num_kv_heads=2,
    d_kv=4,
    layers=2,
    sliding_window=6,
  )
  params = hf_llama.params(config, hf_llama.peer(config).state_dict())
  params = jax.tree.map(lambda leaf: leaf * 1.5 if leaf.ndim > 1 else leaf, params)
  return LoadedModel(params, config, tokenizer)


def of_kind(kind, decoder_model):
  """A model, prompts and candidates."""
  if kind == "t5":
    prompts = [f"w{place % 9} <extra_id_0> w{place % 4}" for place in range(20)]
    return t5_model(), prompts, NAMES
  words = ["London", "Paris", "Rome", "Berlin", "Tokyo", "Ada", "fox", "the", "quick"]
  names = [f"{one} {other}" for one in words for other in words] + words
  return decoder_model, [f"Q: {word} ?\nA:" for word in words] * 2, names


def test_a_t5_with_biases_in_every_layer_reads_a_tree_for_each_row_as_one_for_all():
  config = dataclasses.replace(t5_model().model_config, bias_in_every_layer=True)
  params = t5.init(config, jax.random.key(1))
  inputs = jnp.array([[5, 6, 7, 0], [8, 9, 5, 6], [7, 0, 0, 0]], jnp.int32)
  tokens = np.array([0, 5, 6, 7, 5], np.int32)
  parents = [None, 0, 1, 2, 0]
  distance = np.full((5, 5), -1, np.int32)
  for node in range(5):
    step, at = 0, node
    while at is not None:
      distance[node, at] = step
      step, at = step + 1, parents[at]
  tree = jax.jit(t5.hidden_of_tree, static_argnums=1)
  cache, first = jax.jit(t5.start, static_argnums=(1, 3))(params, config, inputs, 1)
  whole = np.asarray(tree(params, config, cache, first, tokens, distance))
  rows = np.array([1, 2, 0])
  order = np.array([[0, 1, 2, 3, 4], [0, 4, 3, 2, 1], [0, 3, 1, 4, 2]])
  distances = np.stack([distance[np.ix_(of_row, of_row)] for of_row in order])
  taken = t5.take_rows(cache, rows)
  own = np.asarray(tree(params, config, taken, first[rows], tokens[order], distances))
  np.testing.assert_allclose(own, whole[rows[:, None], order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind, batch_size", [("t5", 16), ("decoder", 32)])
def test_equals_the_scores_of_all(kind, batch_size, decoder_model, monkeypatch):
  model, prompts, names = of_kind(kind, decoder_model)
  keys = ["r", "one"] * (len(prompts) // 2)
  candidates = {"r": names, "one": names[:3]}
  whole = ranking.rank(model, prompts, keys, candidates)
  monkeypatch.setattr(ranking, "SEARCHED_FROM", 8)
  monkeypatch.setattr(ranking, "SEARCHED_FROM_TIMES_TOP", 1)
  for top in (1, 7):
    queries = ranking.prepare(model, prompts, keys, candidates, batch_size, top=top)
    assert list(queries.trees) == ["r"] and list(queries.tries) == ["one"]
    for scores, answers in zip(whole, best_first.list_best(model, queries), strict=True):
      found = dict(zip(answers.places.tolist(), answers.scores))
      np.testing.assert_allclose(answers.scores, scores[answers.places], rtol=1e-5, atol=1e-5)
      kth = np.sort(scores)[-min(top, len(scores))]
      assert set(np.flatnonzero(scores > kth + 1e-5)) <= set(found)
      assert len(found) >= min(top, len(scores)) and min(found.values()) > kth - 1e-3
  facts = [{"subject": str(n), "relation": key, "object": "x"} for n, key in enumerate(keys)]
  arguments = {"batch_size": batch_size, "stops": ("\n",), **LABELS}
  found = best_first.rows(model, facts, prompts, candidates, top=5, **arguments)
  every = best_first.rows(model, facts, prompts, candidates, top=None, **arguments)
  for one, other in zip(found, writing.shortened(every, 5), strict=True):
    assert one.keys() == other.keys() and one["among"] == other["among"]
    assert [name for name, _ in one["candidates"]] == [name for name, _ in other["candidates"]]
    np.testing.assert_allclose(
      [score for _, score in one["candidates"]],
      [score for _, score in other["candidates"]],
      rtol=1e-5,
    )


def test_a_mesh_finds_the_same(decoder_model, monkeypatch):
  model, prompts, names = of_kind("t5", decoder_model)
  monkeypatch.setattr(ranking, "SEARCHED_FROM", 8)
  monkeypatch.setattr(ranking, "SEARCHED_FROM_TIMES_TOP", 1)
  queries = ranking.prepare(model, prompts, ["r"] * len(prompts), {"r": names}, top=3)
  mesh = partitioning.make_mesh(devices=jax.devices()[:3])
  shared = best_first.list_best(dataclasses.replace(model, mesh=mesh), queries)
  for one, other in zip(best_first.list_best(model, queries), shared, strict=True):
    assert sorted(one.places) == sorted(other.places)
    np.testing.assert_allclose(sorted(one.scores), sorted(other.scores), rtol=1e-5, atol=1e-5)


def test_other_weights_compile_nothing(decoder_model, monkeypatch):
  model, prompts, names = of_kind("t5", decoder_model)
  monkeypatch.setattr(ranking, "SEARCHED_FROM", 8)
  monkeypatch.setattr(ranking, "SEARCHED_FROM_TIMES_TOP", 1)
  queries = ranking.prepare(model, prompts, ["r"] * len(prompts), {"r": names}, top=1)
  best_first.list_best(model, queries)
  before = best_first._read._cache_size()
  best_first.list_best(model.with_params(jax.tree.map(np.asarray, model.params)), queries)
  assert best_first._read._cache_size() == before


def test_a_model_that_has_diverged_is_named(decoder_model, monkeypatch):
  model, prompts, names = of_kind("t5", decoder_model)
  broken = model.with_params(jax.tree.map(lambda leaf: leaf * jnp.nan, model.params))
  facts = [{"subject": "s", "relation": "r", "object": "x"}] * len(prompts)
  arguments = {"batch_size": 32, "stops": (), **LABELS}
  for least in (8, 10_000):
    monkeypatch.setattr(ranking, "SEARCHED_FROM", least)
    with pytest.raises(UserError, match="the model has diverged"):
      best_first.rows(broken, facts, prompts, {"r": names}, top=2, **arguments)


def test_few_contexts_and_many_wanted_are_not_searched():
  model = t5_model()
  one_token = {"r": [f"w{number}" for number in range(12)]}
  prompts = ["w1 <extra_id_0>"]
  assert not ranking.prepare(model, prompts, ["r"], one_token, top=1).trees
  assert not ranking.prepare(model, prompts, ["r"], {"r": NAMES}, top=len(NAMES)).trees
  queries = ranking.prepare(model, prompts, ["r"], {"r": NAMES}, top=1)
  with pytest.raises(ValueError, match="all is wanted"):
    ranking.rank_prepared(model, queries)


def test_what_is_far_below_the_best_is_not_read():
  with pytest.MonkeyPatch.context() as monkeypatch:
    toy = Toy(monkeypatch, 0)
    monkeypatch.setattr(
      best_first, "_read", lambda *arguments: np.minimum(toy.read(*arguments), -1.0)
    )
    likely = [(2, 3)]
    rest = [(first, second, 9) for first in range(10, 60) for second in range(3)]
    monkeypatch.setitem(
      globals(), "toy_log_p", lambda row, context, token, seed: -1.0 if token in (2, 3) else -5.0
    )
    tree = prefix_trees.build(likely + rest, END)
    batch = ranking.QueryBatch("r", (0,), np.zeros((1, 1), np.int32))
    queries = ranking.Queries((batch,), {}, {"r": tree}, 1, (151,), np.array([END]), 8)
    search = best_first._Search(
      LoadedModel({}, Sizes(), None), {}, lambda array: array, queries, batch
    )
    ((_, answers),) = search.run()
  assert answers.places.tolist() == [0] and answers.scores.tolist() == [-2.0]
  assert tree.contexts == 202 and len(set(toy.contexts)) < 10
