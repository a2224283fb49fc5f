"""Greedy generation against teacher forcing without a cache and transformers; stops, batching, bad
input.
"""

import dataclasses
import functools
import gc
import time

import hf_t5
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from factshock.answering import batches, decoding, sampling
from factshock.checkpoints.loading import LoadedModel
from factshock.data.tokenizers import word_tokenizer
from factshock.devices import partitioning
from factshock.models import t5
from factshock.runtime.errors import UserError

TOKENIZER = word_tokenizer([f"w{number}" for number in range(20)], 4)
X0, X1, EOS = TOKENIZER.sentinel(0), TOKENIZER.sentinel(1), TOKENIZER.eos
CONFIG = t5.T5Config(
  vocab_size=TOKENIZER.size,
  d_model=16,
  d_ff=24,
  num_heads=2,
  d_kv=8,
  encoder_layers=1,
  decoder_layers=2,
)
PROMPTS = [
  "w1 w2 <extra_id_0> w3",
  "<extra_id_0>",
  "w9 w8 w7 w6 w5 w4 <extra_id_0>",
  "w3 <extra_id_0>",
  "w5 w5 <extra_id_0> w0 w9",
  "w2 w9 w12 <extra_id_0>",
  "w1 <extra_id_0> w1",
  "w13 w1 w6 <extra_id_0>",
]
LENGTH = 7
OPTIONS = decoding.DecodingOptions(LENGTH)
forward = jax.jit(t5.forward, static_argnums=1)


def loaded(params, mesh=None):
  """The model of this file with these weights."""
  return LoadedModel(params, CONFIG, TOKENIZER, mesh)


@functools.cache
def make_params(seed):
  # Larger weights answer more surely, and with three times as large ones rounding alone moves some
  # scores by 1e-3.
  return jax.tree.map(lambda x: x * 2 if x.ndim > 1 else x, t5.init(CONFIG, jax.random.key(seed)))


def ends(token, place):
  return token in (EOS, 0) or (token >= TOKENIZER.sentinel(3) and not (place == 0 and token == X0))


def step_by_step(params, prompt):
  """The argmax of teacher forcing over all tokens so far, one after another, and their summed log
  p.
  """
  tokens = batches.encode_prompt(loaded(None), prompt)
  inputs = jnp.array([tokens + [0] * (11 - len(tokens))], jnp.int32)
  said, score = [], 0.0
  while len(said) < LENGTH and not (said and ends(said[-1], len(said) - 1)):
    targets = jnp.array([said + [0] * (LENGTH - len(said))], jnp.int32)
    log_p = np.asarray(jax.nn.log_softmax(forward(params, CONFIG, inputs, targets)[0, len(said)]))
    said.append(int(log_p.argmax()))
    score += log_p.max()
  return said, score


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_teacher_forced_argmax_without_a_cache(seed):
  params = make_params(seed)
  texts, scores = decoding.generate(loaded(params), PROMPTS, OPTIONS)
  for prompt, text, score in zip(PROMPTS, texts, scores):
    said, expected = step_by_step(params, prompt)
    assert text == decoding.answer_text(loaded(None), said)
    assert score == pytest.approx(expected, rel=1e-4)


def test_answers_differ_in_length_and_some_reach_the_limit():
  """The random models of this file do exercise what the tests above compare."""
  lengths = {
    len(step_by_step(make_params(seed), prompt)[0]) for seed in range(3) for prompt in PROMPTS
  }
  assert LENGTH in lengths and min(lengths) < LENGTH


def test_batch_size_and_mesh_change_nothing():
  params = make_params(0)
  together = decoding.generate(loaded(params), PROMPTS, OPTIONS)
  apart = decoding.generate(loaded(params), PROMPTS, OPTIONS, batch_size=3)
  mesh = partitioning.make_mesh(devices=jax.devices()[:3])
  shared = decoding.generate(loaded(params, mesh), PROMPTS, OPTIONS)
  for texts, scores in (apart, shared):
    assert texts == together[0]
    np.testing.assert_allclose(scores, together[1], rtol=1e-4)


def test_copies_of_the_weights_are_let_go_of_at_once():
  model = loaded(make_params(0))
  decoding.generate(model, PROMPTS, OPTIONS)
  gc.collect()
  gc.disable()  # what lies in a circle would stay
  try:
    before = len(jax.live_arrays())
    decoding.generate(model, PROMPTS, OPTIONS)
    by_then = time.monotonic() + 60
    while len(jax.live_arrays()) > before and time.monotonic() < by_then:
      time.sleep(0.05)  # a thread may still compile ahead
    assert len(jax.live_arrays()) <= before
  finally:
    gc.enable()


def test_going_on_with_fewer_rows_changes_nothing(monkeypatch):
  """16 rows of which some end early: with narrowing (8, then 4 ... rows) and without."""
  params, prompts = make_params(0), PROMPTS * 3
  widths = []
  take = sampling._take
  monkeypatch.setattr(
    sampling,
    "_take",
    lambda config, state, rows: (widths.append(len(rows)), take(config, state, rows))[1],
  )
  monkeypatch.setattr(sampling, "NARROWEST", 2)
  narrowed = decoding.generate(
    loaded(params), prompts, decoding.DecodingOptions(LENGTH, method="sample"), batch_size=16
  )
  assert widths and min(widths) < 8
  widths.clear()
  monkeypatch.setattr(sampling, "NARROWEST", 100)
  whole = decoding.generate(
    loaded(params), prompts, decoding.DecodingOptions(LENGTH, method="sample"), batch_size=16
  )
  assert not widths and narrowed[0] == whole[0]
  np.testing.assert_allclose(narrowed[1], whole[1], rtol=1e-4)


@pytest.mark.parametrize("left", [False, True])
def test_packed_prompts_stand_where_their_places_say(left):
  inputs = batches.pad([[5, 6, 7], [8], [9, 10, 11, 12, 13]], [0, 1, 2], 4 if not left else 3, left)
  tokens, segments, places = batches.pack(inputs, left)
  shown = inputs[:, :-1] if left else inputs
  used = shown != (batches.decoder_text.PAD if left else 0)
  np.testing.assert_array_equal(tokens.ravel()[places[used]], shown[used])
  assert len({*places[used].tolist()}) == used.sum() == (segments > 0).sum()
  for row in range(len(inputs)):
    assert len(set(segments.ravel()[places[row][used[row]]])) <= 1  # one prompt, one segment


def test_packing_reads_at_most_a_row_more_than_padding():
  """Prompts too long for two in a row of PACKED, and of lengths that leave much of it free."""
  for longest in (5, 40, 72, 200):
    inputs = batches.pad([[7] * (longest - row % 3) for row in range(32)], range(32), 32)
    tokens, segments, _ = batches.pack(inputs)
    assert tokens.size < inputs.size + tokens.shape[1]
    assert (segments > 0).sum() == (inputs > 0).sum()


def test_weights_are_narrowed_once_and_answers_stay():
  """float32 weights of a bfloat16 model, placed in bfloat16."""
  config = dataclasses.replace(CONFIG, dtype="bfloat16")
  params = make_params(0)
  placed, _ = batches.place(LoadedModel(params, config, TOKENIZER))
  assert {leaf.dtype for leaf in jax.tree.leaves(placed)} == {jnp.dtype("bfloat16")}
  logits = []
  for weights in (placed, params):
    cache, first = t5.start(weights, config, np.array([[5, 6, 1]], np.int32), 2)
    cache = dict(t5.unstack(cache), weights=t5.layer_weights(weights))
    logits.append(t5.step(weights, config, cache, first)[0])
  np.testing.assert_array_equal(*logits)


def test_other_weights_compile_nothing():
  first = decoding.generate(loaded(make_params(0)), PROMPTS, OPTIONS)
  before = sampling._advance._cache_size()
  second = decoding.generate(loaded(make_params(1)), PROMPTS, OPTIONS)
  assert sampling._advance._cache_size() == before
  assert not np.allclose(first[1], second[1])


@pytest.mark.parametrize(
  "placed, stops, length",  # a length that no other test compiles for
  [("nowhere", None, 9), ("on a mesh of one", None, 10), ("on a device", ("w1 w2",), 11)],
)
def test_what_is_compiled_ahead_is_what_is_called(caplog, monkeypatch, placed, stops, length):
  """Each program is compiled once, those for fewer rows too."""
  monkeypatch.setattr(sampling, "NARROWEST", 2)
  params = make_params(0)
  mesh = None
  if placed == "on a device":
    params = jax.device_put(params, jax.devices()[0])
  elif placed == "on a mesh of one":
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    params = partitioning.place_params(params, mesh)
  options = decoding.DecodingOptions(length, method="sample", stops=stops)
  jax.config.update("jax_log_compiles", True)  # on threads too
  try:
    decoding.generate(loaded(params, mesh), PROMPTS * 3, options, batch_size=16)
  finally:
    jax.config.update("jax_log_compiles", False)
  compiled = [record.message for record in caplog.records if "Compiling jit(_" in record.message]
  assert any("_begin" in message for message in compiled)
  twice = [message for message in compiled if compiled.count(message) > 1]
  assert not twice


@pytest.mark.parametrize(
  "tokens, text",
  [
    ([X0, 3, 4, X1, 5], "w0 w1"),
    ([X0, 3, EOS, 4], "w0"),
    ([3, 4], "w0 w1"),
    ([3, X0, 4], "w0"),
    ([X0, X1, 4], ""),
    ([X1, 4], ""),
    ([EOS], ""),
    ([X0, 3, 0, 0], "w0"),
    ([], ""),
  ],
)
def test_the_answer_stands_between_the_sentinels(tokens, text):
  assert decoding.answer_text(loaded(None), tokens) == text


def test_no_prompts_no_answers():
  texts, scores = decoding.generate(loaded(make_params(0)), [], OPTIONS)
  assert texts == [] and scores.shape == (0,)


@pytest.mark.parametrize(
  "prompts, options, error, words",
  [
    (["w1"], {}, UserError, "where the answer goes"),
    (["w1 " * 1100 + "<extra_id_0>"], {}, UserError, "at most 1024 tokens"),
    (PROMPTS, {"batch_size": 0}, ValueError, "batch_size"),
  ],
)
def test_bad_input(prompts, options, error, words):
  with pytest.raises(error, match=words):
    decoding.generate(loaded(make_params(0)), prompts, OPTIONS, **options)


def test_a_length_of_no_tokens_is_refused():
  with pytest.raises(ValueError, match="max_length"):
    decoding.DecodingOptions(0)


def test_equals_transformers_generate():
  torch = pytest.importorskip("torch")
  model = hf_t5.peer(CONFIG)
  for name, value in model.named_parameters():
    value.data.mul_(1 if "norm" in name else 3)
  params = hf_t5.params(CONFIG, model.state_dict())
  tokens = [batches.encode_prompt(loaded(None), prompt) for prompt in PROMPTS]
  inputs = torch.tensor(batches.pad(tokens, range(len(tokens)), len(tokens)).astype(np.int64))
  with torch.no_grad():
    said = model.generate(
      inputs,
      attention_mask=(inputs != 0).long(),
      max_new_tokens=LENGTH,
      do_sample=False,
      use_cache=False,
    )  # its cache fails where encoder and decoder differ in depth
  texts, _ = decoding.generate(loaded(params), PROMPTS, OPTIONS)
  assert texts == [decoding.answer_text(loaded(None), row[1:].tolist()) for row in said]
