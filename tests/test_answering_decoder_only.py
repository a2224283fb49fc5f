"""Decoder-only models answering: ranks equal each pair scored alone, greedy text equals no cache,
stop strings; sampling.
"""

import dataclasses
import functools

import hf_llama
import hf_tokenizers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from factshock.answering import batches, decoding, ranking, sampling
from factshock.checkpoints.loading import LoadedModel
from factshock.data import pretrained_tokenizers
from factshock.models import decoder, t5
from factshock.runtime.errors import UserError

CANDIDATES = {
  "born": ["London", "London Bridge", "Paris", "Rome 12", "Berlin", "Tokyo fox", "Tokyo"],
  "made": ["Grace Hopper", "Ada Byron", "Ada", "the quick brown fox"],
}
PROMPTS = [
  "Q: where was Ada Byron born ?\nA:",
  "A:",
  "Q: who made it ?\nA:",
  "Q: who made Paris ?\nA: Rome\n\nQ: who ?\nA:",
  "Q: Rome ?\nA:",
]
KEYS = ["born", "born", "made", "made", "born"]
LENGTH = 10
forward = jax.jit(decoder.forward, static_argnums=1)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  return pretrained_tokenizers.load(hf_tokenizers.llama_like(tmp_path_factory.mktemp("tokenizer")))


@functools.cache
def model(size, window=None):
  config = decoder.LlamaConfig(
    vocab_size=size,
    d_model=16,
    d_ff=24,
    num_heads=4,
    num_kv_heads=2,
    d_kv=4,
    layers=2,
    sliding_window=window,
    max_length=200,
  )
  params = hf_llama.params(config, hf_llama.peer(config).state_dict())
  return config, jax.tree.map(lambda leaf: leaf * 1.5 if leaf.ndim > 1 else leaf, params)


def log_p_after(params, config, tokens):
  """Log-probabilities [S, V] after each token, without padding or cache."""
  room = np.full((1, 96), decoder.PAD, np.int32)
  room[0, : len(tokens)] = tokens
  return np.asarray(
    jax.nn.log_softmax(forward(params, config, jnp.asarray(room))[0, : len(tokens)]), np.float64
  )


@pytest.mark.parametrize("window", [pytest.param(None, marks=pytest.mark.slow), 6])
def test_ranks_equal_scoring_each_pair_alone(tokenizer, window):
  config, params = model(tokenizer.size + 3, window)
  closing = batches.closing_tokens(LoadedModel(params, config, tokenizer))
  assert closing[0] == tokenizer.eos and tokenizer.decode(closing[1:]) == "\n"
  scores = ranking.rank(
    LoadedModel(params, config, tokenizer), PROMPTS, KEYS, CANDIDATES, batch_size=2
  )
  for prompt, key, got in zip(PROMPTS, KEYS, scores):
    before = [tokenizer.bos, *tokenizer.encode(prompt)]
    sequences = [tokenizer.encode_continuation(prompt, name) for name in CANDIDATES[key]]
    for sequence, score in zip(sequences, got):
      log_p = log_p_after(params, config, before + sequence)[len(before) - 1 :]
      expected = sum(log_p[place, token] for place, token in enumerate(sequence))
      if any(other != sequence and other[: len(sequence)] == sequence for other in sequences):
        expected += np.log(np.exp(log_p[len(sequence), closing]).sum())
      assert score == pytest.approx(expected, rel=1e-4)


def greedy_by_hand(params, config, tokenizer, prompt, ends):
  tokens, score = [tokenizer.bos, *tokenizer.encode(prompt)], 0.0
  start = len(tokens)
  while len(tokens) < start + LENGTH and not (len(tokens) > start and tokens[-1] in ends):
    log_p = log_p_after(params, config, tokens)[-1]
    tokens.append(int(log_p.argmax()))
    score += log_p.max()
  return tokens[start:], score


def test_greedy_text_equals_that_without_a_cache_and_stops_where_told(tokenizer):
  config, params = model(tokenizer.size)
  plain, scores = decoding.generate(
    LoadedModel(params, config, tokenizer), PROMPTS, decoding.DecodingOptions(LENGTH), batch_size=3
  )
  for prompt, text, score in zip(PROMPTS, plain, scores):
    tokens, expected = greedy_by_hand(params, config, tokenizer, prompt, [tokenizer.eos])
    said = tokenizer.decode(
      tokens[: tokens.index(tokenizer.eos)] if tokenizer.eos in tokens else tokens
    )
    assert text == said.strip() and score == pytest.approx(expected, rel=1e-4)
  stop = max(plain, key=len)[3:5]  # text that some answer does hold, perhaps across tokens
  stopped, _ = decoding.generate(
    LoadedModel(params, config, tokenizer),
    PROMPTS,
    decoding.DecodingOptions(LENGTH, stops=(stop, "never said")),
  )
  assert stopped == [text.split(stop)[0].strip() for text in plain] != plain


def test_a_stop_of_one_token_ends_generation(tokenizer):
  config, params = model(tokenizer.size)
  said, _ = greedy_by_hand(params, config, tokenizer, PROMPTS[0], [tokenizer.eos])
  token = next(
    token for token in said[2:] if tokenizer.decode([token]).strip() and token != tokenizer.eos
  )
  stop = tokenizer.decode([token]).strip()
  ends = decoding.end_tokens(LoadedModel(params, config, tokenizer), (stop,))[0]
  tokens, _ = sampling.sample(
    LoadedModel(params, config, tokenizer),
    [[tokenizer.bos, *tokenizer.encode(PROMPTS[0])]],
    (ends, -1),
    max_length=LENGTH,
  )
  expected, _ = greedy_by_hand(params, config, tokenizer, PROMPTS[0], list(ends))
  assert [token for token in tokens[0] if token != batches.ENDED] == expected


def test_a_prompt_longer_than_the_model_allows(tokenizer):
  config, params = model(tokenizer.size)
  short = dataclasses.replace(config, max_length=30)
  with pytest.raises(
    UserError,
    match="expected at most 20 tokens, as the model reads 30 and the answer takes 10, got",
  ):
    decoding.generate(
      LoadedModel(params, short, tokenizer),
      ["Q: " * 20 + "\nA:"],
      decoding.DecodingOptions(LENGTH),
    )
  with pytest.raises(UserError, match="as the model reads 30"):
    ranking.rank(LoadedModel(params, short, tokenizer), ["Q: " * 20 + "\nA:"], ["born"], CANDIDATES)


SMALL = {
  "t5": t5.T5Config(
    vocab_size=7, d_model=8, d_ff=12, num_heads=2, d_kv=4, encoder_layers=1, decoder_layers=1
  ),
  "llama": decoder.LlamaConfig(
    vocab_size=7, d_model=8, d_ff=12, num_heads=2, num_kv_heads=1, d_kv=4, layers=1
  ),
}


@pytest.mark.parametrize("name", ["llama", pytest.param("t5", marks=pytest.mark.slow)])
@pytest.mark.parametrize("temperature", [pytest.param(1.0, marks=pytest.mark.slow), 0.5])
def test_samples_follow_the_tempered_distribution(name, temperature):
  """Chi-square over all two-token continuations of one prompt, 20,000 samples, at the level of
  0.1%.
  """
  config, count = SMALL[name], 20_000
  module = decoder if name == "llama" else t5
  params = jax.tree.map(
    lambda leaf: 2 * leaf if leaf.ndim > 1 else leaf, module.init(config, jax.random.key(1))
  )
  prompt, nowhere = [3, 5, 4], (np.array([99], np.int32), -1)
  tokens, scores = sampling.sample(
    LoadedModel(params, config, None),
    [prompt] * count,
    nowhere,
    max_length=2,
    batch_size=count,
    drawing=sampling.Drawing(temperature, seed=4),
  )
  pairs = (
    np.stack(np.meshgrid(np.arange(7), np.arange(7), indexing="ij"), -1)
    .reshape(-1, 2)
    .astype(np.int32)
  )
  if name == "llama":
    rows = np.concatenate([np.tile(prompt, (49, 1)), pairs], axis=1).astype(np.int32)
    logits = np.asarray(module.forward(params, config, rows))[:, 2:4]
  else:
    logits = np.asarray(
      module.forward(params, config, np.tile(np.array([prompt], np.int32), (49, 1)), pairs)
    )
  whole, tempered = (np.asarray(jax.nn.log_softmax(logits / t)) for t in (1.0, temperature))
  chosen = lambda log_p: sum(log_p[np.arange(49), place, pairs[:, place]] for place in range(2))
  expected = count * np.exp(chosen(tempered))
  observed = np.bincount(tokens[:, 0] * 7 + tokens[:, 1], minlength=49)
  assert ((observed - expected) ** 2 / expected).sum() < stats.chi2.ppf(0.999, 48)
  np.testing.assert_allclose(
    scores, chosen(whole)[tokens[:, 0] * 7 + tokens[:, 1]], rtol=1e-3, atol=1e-4
  )


@pytest.mark.parametrize("name", ["llama", pytest.param("t5", marks=pytest.mark.slow)])
def test_samples_depend_on_seed_and_place_alone(name):
  config = SMALL[name]
  params = (decoder if name == "llama" else t5).init(config, jax.random.key(1))
  prompts = [[3, 5, 4][: 1 + place % 3] for place in range(12)]

  def sampled(batch_size, seed, first=0):
    return sampling.sample(
      LoadedModel(params, config, None),
      prompts[first:],
      (np.array([1], np.int32), -1),
      max_length=6,
      batch_size=batch_size,
      drawing=sampling.Drawing(0.7, seed, first),
    )[0]

  np.testing.assert_array_equal(sampled(12, 0), sampled(5, 0))
  np.testing.assert_array_equal(sampled(12, 0)[7:], sampled(5, 0, first=7))
  assert (sampled(12, 0) != sampled(12, 1)).any()


@pytest.mark.parametrize(
  "options, words",
  [({"method": "best"}, "method"), ({"temperature": 0.0}, "temperature"), ({"beams": 0}, "beams")],
)
def test_bad_options(options, words):
  with pytest.raises(ValueError, match=words):
    decoding.DecodingOptions(LENGTH, **options)


def test_a_stop_across_tokens_ends_generation_whatever_the_batch(tokenizer):
  """The text is what stands before the stop, and the score that of the tokens up to its last one,
  alone or beside rows that go on.
  """
  config, params = model(tokenizer.size)
  loaded = LoadedModel(params, config, tokenizer)
  options = decoding.DecodingOptions(LENGTH)
  plain, _ = decoding.generate(loaded, PROMPTS, options, batch_size=3)
  said, _ = greedy_by_hand(params, config, tokenizer, PROMPTS[0], [tokenizer.eos])
  pieces = [decoding.answer_text(loaded, said[:size]) for size in range(len(said) + 1)]
  size = next(size for size in range(2, len(said)) if len(pieces[size]) > len(pieces[size - 1]) > 1)
  stop = pieces[size][len(pieces[size - 1]) - 1 :]  # the end of one token and the next
  size = next(size for size in range(len(said)) if stop in pieces[size])
  stopping = decoding.DecodingOptions(LENGTH, stops=(stop,))
  for batch_size in (1, 2, len(PROMPTS)):
    texts, scores = decoding.generate(loaded, PROMPTS, stopping, batch_size=batch_size)
    assert texts == [text.split(stop)[0].strip() for text in plain] != plain
    log_p = log_p_after(
      params, config, [tokenizer.bos, *tokenizer.encode(PROMPTS[0]), *said[:size]]
    )
    expected = sum(log_p[place - size - 1, said[place]] for place in range(size))
    assert scores[0] == pytest.approx(expected, rel=1e-4)


def test_every_end_of_a_model_ends_its_answer(tokenizer):
  config, params = model(tokenizer.size)
  said, _ = greedy_by_hand(params, config, tokenizer, PROMPTS[0], [tokenizer.eos])
  end = said[3]
  ending = dataclasses.replace(tokenizer, more_ends=(end,))
  texts, scores = decoding.generate(
    LoadedModel(params, config, ending), PROMPTS[:1], decoding.DecodingOptions(LENGTH, stops=())
  )
  tokens, expected = greedy_by_hand(params, config, tokenizer, PROMPTS[0], [tokenizer.eos, end])
  assert texts == [tokenizer.decode(tokens[:-1]).strip()]
  assert scores[0] == pytest.approx(expected, rel=1e-4)
