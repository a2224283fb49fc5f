"""Likelihoods of continuations against the models' own forward passes, and against greedy
decoding.
"""

import hf_t5
import hf_tokenizers
import jax
import numpy as np
import pytest

from factshock.answering import decoding, likelihoods
from factshock.checkpoints.loading import LoadedModel
from factshock.data import decoder_text, pretrained_tokenizers
from factshock.data.tokenizers import word_tokenizer
from factshock.models import decoder, t5
from factshock.runtime.errors import UserError

forward_t5, forward_llama = (
  hf_t5.quick_jit(of, static_argnums=1) for of in (t5.forward, decoder.forward)
)


def sharp(params):
  """Parameters whose logits lie far apart, as those of a trained model."""
  return jax.tree.map(lambda x: x * 3 if x.ndim > 1 else x, params)


@pytest.fixture(scope="module")
def t5_model():
  tokenizer = word_tokenizer([f"w{number}" for number in range(10)], 4)
  config = t5.T5Config(
    vocab_size=tokenizer.size,
    d_model=16,
    d_ff=24,
    num_heads=2,
    d_kv=8,
    encoder_layers=1,
    decoder_layers=2,
  )
  return sharp(t5.init(config, jax.random.key(0))), config, tokenizer


@pytest.fixture(scope="module")
def llama_model(tmp_path_factory):
  tokenizer = pretrained_tokenizers.load(hf_tokenizers.llama_like(tmp_path_factory.mktemp("llama")))
  config = decoder.LlamaConfig(
    vocab_size=tokenizer.size,
    d_model=16,
    d_ff=24,
    num_heads=2,
    num_kv_heads=1,
    d_kv=8,
    layers=2,
    max_length=64,
  )
  return sharp(decoder.init(config, jax.random.key(0))), config, tokenizer


def random_pairs(size, opening=(), seed=0, number=17):
  """Pairs of prompts (some of them equal) and continuations of several lengths (each is compiled
  anew for comparison), in no order.
  """
  random = np.random.default_rng(seed)
  prompts = [random.integers(3, size, length).tolist() for length in (1, 12)]
  return [
    (
      prompts[random.integers(2)],
      [*opening, *random.integers(3, size, random.choice([1, 6])).tolist()],
    )
    for _ in range(number)
  ]


def log_p(params, config, before, after, opening):
  """Log-probabilities [T, V] before each token of `after`, by one forward pass of this pair
  alone.
  """
  if opening:
    return jax.nn.log_softmax(
      forward_t5(params, config, np.array([before], np.int32), np.array([after], np.int32))
    )[0]
  logits = forward_llama(params, config, np.array([before + after], np.int32))
  return jax.nn.log_softmax(logits)[0, len(before) - 1 : -1]


@pytest.mark.parametrize("family", ["t5", "llama"])
@pytest.mark.parametrize(
  "batch_size", [*(pytest.param(size, marks=pytest.mark.slow) for size in (1, 6)), 64]
)
def test_scores_are_those_of_the_forward_pass(family, batch_size, request):
  params, config, tokenizer = request.getfixturevalue(f"{family}_model")
  opening = [tokenizer.sentinel(0)] if family == "t5" else []
  pairs = random_pairs(tokenizer.size - tokenizer.sentinels, opening)
  scores, greedy = likelihoods.score(
    LoadedModel(params, config, tokenizer), pairs, batch_size=batch_size
  )
  assert not greedy.any()  # the chance is 1 in thousands
  for (before, after), score in zip(pairs, scores):
    table, places = (
      log_p(params, config, before, after, opening),
      np.arange(len(opening), len(after)),
    )
    assert score == pytest.approx(float(table[places, np.array(after)[places]].sum()), rel=1e-4)


@pytest.mark.parametrize("family", [pytest.param("t5", marks=pytest.mark.slow), "llama"])
def test_what_greedy_decoding_says_is_greedy_and_nothing_else_is(family, request):
  params, config, tokenizer = request.getfixturevalue(f"{family}_model")
  opening = [tokenizer.sentinel(0)] if family == "t5" else []
  pairs = []
  for before in ([5, 6, 7], [8], [9, 4, 4, 3]):
    after = list(opening)
    for _ in range(4):
      table = log_p(params, config, before, [*after, 3], opening)
      after.append(int(np.asarray(table)[-1].argmax()))
    pairs += [
      (before, after),
      (before, after[:-1]),
      (before, [*after[:-1], (after[-1] + 1) % tokenizer.size]),
    ]
  _, greedy = likelihoods.score(LoadedModel(params, config, tokenizer), pairs)
  assert greedy.tolist() == [True, True, False] * 3


def test_whole_texts_score_as_their_continuations_do(llama_model):
  params, config, tokenizer = llama_model
  pairs = random_pairs(tokenizer.size)
  rows, counted = [before + after for before, after in pairs], [len(after) for _, after in pairs]
  found = likelihoods.score_whole(
    LoadedModel(params, config, tokenizer), rows, counted, batch_size=4
  )
  np.testing.assert_allclose(
    found, likelihoods.score(LoadedModel(params, config, tokenizer), pairs)[0], rtol=1e-4
  )


def test_a_mesh_and_progress_change_nothing(llama_model):
  params, config, tokenizer = llama_model
  pairs, said = random_pairs(tokenizer.size), []
  mesh = jax.make_mesh(
    (8, 1, 1), ("data", "fsdp", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 3
  )
  found = likelihoods.score(
    LoadedModel(params, config, tokenizer, mesh), pairs, batch_size=16, progress=said.append
  )
  expected = likelihoods.score(LoadedModel(params, config, tokenizer), pairs)
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)
  assert said == sorted(said) and said[-1] == len(pairs)


def test_continuations_that_cannot_be(llama_model):
  params, config, tokenizer = llama_model
  with pytest.raises(UserError, match="expected continuations of 1 to"):
    likelihoods.score(LoadedModel(params, config, tokenizer), [([3], [])])
  with pytest.raises(UserError, match="as the model reads 64"):
    likelihoods.score(LoadedModel(params, config, tokenizer), [([3] * 60, [4] * 5)])


def test_generated_ids_end_where_the_answer_does(t5_model, llama_model):
  first, last = t5_model[2].sentinel(0), t5_model[2].sentinel(3)
  llama = LoadedModel(*llama_model)
  for tokens in ([first, 4, 5, last, 6], [4, 5, 1, 0]):
    assert decoding.answer_tokens(LoadedModel(*t5_model), tokens) == [4, 5]
  assert decoding.answer_tokens(llama, [4, 5, llama.tokenizer.eos, -1]) == [4, 5]
  assert (
    decoder_text.before_stop(" a b\nc", ("c", "\n")) == " a b"
    and decoder_text.before_stop(" a ", ()) == " a "
  )
