"""Weights as 8 bits: products err by no more than rounding; all ways to answer are one model."""

import functools
import json

import hf_tokenizers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from answered import answer_facts
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import factshock
from factshock.answering import batches, sampling
from factshock.answering.asking import AnswerOptions
from factshock.answering.decoding import DecodingOptions
from factshock.checkpoints import loading
from factshock.checkpoints.loading import LoadedModel
from factshock.devices import partitioning
from factshock.models import decoder, families, int8, layers, lora, products, t5
from factshock.models.formats import huggingface
from factshock.models.int8 import Int8Weight
from factshock.runtime.errors import UserError

SIZES = dict(vocab_size=60, d_model=24, d_ff=40, num_heads=4, d_kv=8)
CONFIGS = {
  "t5": t5.T5Config(**SIZES, encoder_layers=2, decoder_layers=2),
  "t5, plain and tied": t5.T5Config(
    **SIZES, encoder_layers=2, decoder_layers=2, feed_forward="relu", tie_head=True
  ),
  "llama": decoder.LlamaConfig(**SIZES, num_kv_heads=2, layers=2),
  "llama, tied": decoder.LlamaConfig(**SIZES, num_kv_heads=2, layers=2, tie_head=True),
}
SMALL = arrays.arrays(
  np.float32,
  st.tuples(st.integers(1, 5), st.integers(1, 7)),
  elements=st.floats(-1e4, 1e4, width=32),
)


@functools.cache
def params_of(name):
  config = CONFIGS[name]
  params = families.of(config).init(config, jax.random.key(0))
  return jax.tree.map(lambda leaf: leaf * 3 if leaf.ndim > 2 else leaf, params)


@settings(max_examples=60, deadline=None)
@given(SMALL, st.integers(0, 2**31))
def test_a_product_errs_by_no_more_than_half_a_step_of_each_factor(x, seed):
  weight = np.random.default_rng(seed).normal(size=(x.shape[1], 6)).astype(np.float32)
  known = int8.quantised({"down": jnp.asarray(weight)})["down"]
  got = products.dense(jnp.asarray(x), known)
  half_of_rows = np.abs(x).max(axis=1, keepdims=True) / 254
  half_of_columns = np.abs(weight).max(axis=0, keepdims=True) / 254
  most = np.abs(x).sum(axis=1, keepdims=True) * half_of_columns
  most = most + half_of_rows * (np.abs(weight).sum(axis=0) + x.shape[1] * half_of_columns)
  assert (np.abs(got - x.astype(np.float64) @ weight) <= most * 1.001 + 1e-30).all()
  of_parts = products.dense(jnp.asarray(x)[:, None], known.reshape(x.shape[1], 2, 3))
  np.testing.assert_array_equal(of_parts, np.asarray(got).reshape(-1, 1, 2, 3))
  of_rows = int8.quantised({"head": jnp.asarray(weight.T)})["head"]
  np.testing.assert_array_equal(products.logits(jnp.asarray(x)[:, None], of_rows)[:, 0], got)


def test_weights_that_are_integers_already_are_kept():
  random = np.random.default_rng(0)
  weight = random.integers(-126, 127, (3, 8, 4)).astype(np.float32)
  weight[:, 0] = 127
  weight[1, :, 2] = 0
  known = int8.quantised({"layers": {"query": jnp.asarray(weight)}})["layers"]["query"]
  np.testing.assert_array_equal(int8.widened(known), weight)
  x = random.integers(-126, 127, (5, 8)).astype(np.float32)
  x[:, 0] = -127
  one = jax.tree.map(lambda leaf: leaf[1], known)
  np.testing.assert_array_equal(products.dense(jnp.asarray(x), one), x @ weight[1])


@pytest.mark.parametrize("name", CONFIGS)
def test_matrices_alone_are_quantised(name):
  params = params_of(name)
  adapters = lora.init(params, jax.random.key(1), 2, ["query"])
  found = int8.quantised(lora.attach(params, adapters, 1.0))
  kept = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(
    found, is_leaf=lambda leaf: isinstance(leaf, Int8Weight)
  )[0]:
    kept.setdefault(isinstance(leaf, Int8Weight), set()).add(path[-1].key)
  assert kept[True] >= {"embedding", "query", "key", "value", "out", "up", "down"}
  assert kept[False] <= {"scale", "relative_bias", "query_lora_a", "query_lora_b"}
  assert layers.narrowed(found, "bfloat16")["embedding"].scale.dtype == jnp.float32


@pytest.mark.parametrize("name", CONFIGS)
def test_answers_with_a_cache_are_those_without(name):
  config = CONFIGS[name]
  model = LoadedModel(int8.quantised(params_of(name)), config, None)
  random = np.random.default_rng(3)
  prompts = [random.integers(12, 60, random.integers(2, 12)).tolist() for _ in range(12)]
  ends = (np.array([1], np.int32), -1)
  tokens, scores = sampling.sample(model, prompts, ends, max_length=6, batch_size=4)
  said = [row[row != batches.ENDED].tolist() for row in tokens]
  log_p = log_p_of(model, prompts, said)
  for row, place, score in zip(said, log_p, scores):
    of_said = [place[step, token] for step, token in enumerate(row)]
    np.testing.assert_allclose(of_said, place[: len(row)].max(axis=1), atol=1e-4)
    assert score == pytest.approx(sum(of_said), abs=1e-3)


def log_p_of(model, prompts, said):
  """Log-probabilities [T, V] of each prompt's answer, all tokens read at once."""
  config = model.model_config
  if not model.decoder_only:
    inputs, targets = (padded(rows, 0) for rows in (prompts, said))
    return np.asarray(jax.nn.log_softmax(t5.forward(model.params, config, inputs, targets)))
  whole = padded([[*prompt, *row] for prompt, row in zip(prompts, said)], decoder.PAD)
  log_p = jax.nn.log_softmax(decoder.forward(model.params, config, whole))
  return [np.asarray(row[len(prompt) - 1 :]) for prompt, row in zip(prompts, log_p)]


def padded(rows, filler):
  longest = max(map(len, rows))
  return jnp.asarray([[*row, *[filler] * (longest - len(row))] for row in rows], jnp.int32)


def test_devices_share_the_questions():
  config = CONFIGS["llama"]
  model = LoadedModel(int8.quantised(params_of("llama")), config, None)
  prompts = np.random.default_rng(5).integers(12, 60, (16, 5)).tolist()
  ends = (np.array([1], np.int32), -1)
  alone = sampling.sample(model, prompts, ends, max_length=5, batch_size=16)
  mesh = partitioning.make_mesh({"fsdp": 2})
  cut = LoadedModel(model.params, config, None, mesh)
  together = sampling.sample(cut, prompts, ends, max_length=5, batch_size=16)
  np.testing.assert_array_equal(alone[0], together[0])
  np.testing.assert_allclose(alone[1], together[1], rtol=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A HuggingFace folder of a small decoder."""
  path = tmp_path_factory.mktemp("model") / "llama"
  config = decoder.LlamaConfig(**{**SIZES, "vocab_size": 400}, num_kv_heads=2, layers=1)
  huggingface.save(path, decoder.init(config, jax.random.key(0)), config)
  hf_tokenizers.llama_like(path)
  return str(path)


@pytest.mark.parametrize("mode", ["rank", "generate"])
def test_it_is_said_how_many_answers_stay_the_same(folder, tmp_path, capsys, monkeypatch, mode):
  facts = [
    {"subject": name, "relation": "born", "object": place}
    for name, place in zip(("Ada", "Grace", "Byron"), ("London", "Paris", "Rome"))
  ]
  for file, rows in (
    ("facts", facts),
    ("relations", [{"relation": "born", "statements": ["[X]: [Y]"], "questions": ["[X]?"]}]),
  ):
    (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

  def answered(dtype):
    return answer_facts(
      folder,
      str(tmp_path / "facts.jsonl"),
      str(tmp_path / f"{dtype}.jsonl"),
      AnswerOptions(
        mode=mode,
        decoding=DecodingOptions(max_length=4),
        relations=str(tmp_path / "relations.jsonl"),
        dtype=dtype,
      ),
    )

  own = answered(None)
  assert "to compare" not in capsys.readouterr().out
  in_int8 = answered("int8")
  equal = sum(row["prediction"] == other["prediction"] for row, other in zip(own, in_int8))
  assert f"{equal} of 3 answers in int8 are those of float32" in capsys.readouterr().out
  assert [row["score"] for row in own] != [row["score"] for row in in_int8]
  opened = []
  open_model = loading.open_model
  monkeypatch.setattr(
    loading, "open_model", lambda *given: opened.append(given) or open_model(*given)
  )
  answered("float32")
  assert "to compare" not in capsys.readouterr().out
  assert len(opened) == 1  # not a second time to see that this is its own dtype


def test_the_python_api_takes_a_dtype(folder):
  assert isinstance(factshock.load(folder, dtype="int8").loaded.params["embedding"], Int8Weight)
  with pytest.raises(UserError, match="dtype: expected one of float32, bfloat16, int8, got 'int4'"):
    factshock.load(folder, dtype="int4")
