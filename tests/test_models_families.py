"""Families of models: records found by their files; a third one trains, answers and is exported."""

import functools
import pathlib
import sys

import hf_tokenizers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from factshock import models
from factshock.answering import decoding, ranking
from factshock.checkpoints import loading
from factshock.data import batching, decoder_text, pretrained_tokenizers
from factshock.models import families
from factshock.models.formats import huggingface
from factshock.runtime.errors import UserError
from factshock.study import config as configs
from factshock.training import train_step

FOLDER = pathlib.Path(__file__).parent / "helpers" / "more_families"
ANSWERS = {
  "Q: where was Ada Byron born ?\nA:": "London",
  "Q: who made it ?\nA:": "Grace Hopper",
  "Q: Rome or Paris ?\nA:": "Tokyo",
}
CANDIDATES = {"answer": ["London", "Grace Hopper", "Tokyo", "Berlin"]}


@pytest.fixture
def family(monkeypatch):
  """The family of tests/helpers/more_families, as if its one file stood in factshock/models."""
  monkeypatch.setattr(models, "__path__", [*models.__path__, str(FOLDER)])
  families._registry.cache_clear()
  yield families.named("bag_of_words")
  families._registry.cache_clear()
  sys.modules.pop("factshock.models.family_bag_of_words")
  del models.family_bag_of_words


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  return pretrained_tokenizers.load(hf_tokenizers.llama_like(tmp_path_factory.mktemp("tokenizer")))


def test_each_config_has_its_family():
  decoders = {"llama", "gemma2", "gemma3", "olmo2", "qwen2", "qwen3", "smollm3"}
  assert {family.name for family in families.known() if family.decoder_only} == decoders
  assert "t5" in families.names()
  for family in families.known():
    assert families.of(family_config(family)) is family
    section = families.to_section(family_config(family))
    assert section.keys() == families.section_schema(family.name).keys()
    assert families.from_section(section, 10) == family_config(family)
  with pytest.raises(ValueError, match="expected a Gemma2Config or .* or T5Config.*, got dict"):
    families.of({})
  with pytest.raises(UserError, match="expected one of gemma2, .*, t5.*, got 'gpt'"):
    families.named("gpt")


def family_config(family):
  depths = (
    {"layers": 2, "num_kv_heads": 2}
    if family.decoder_only
    else {"encoder_layers": 2, "decoder_layers": 2}
  )
  sizes = dict(vocab_size=40, d_model=16, d_ff=24, num_heads=4, d_kv=8, **depths)
  return family.config_type(**sizes)


def train(family, config, tokenizer):
  """Parameters trained on ANSWERS, and the first and last loss."""
  rows = [decoder_text.encode_prompt(tokenizer, prompt) for prompt in ANSWERS]
  ends = [
    [*tokenizer.encode_continuation(prompt, answer), tokenizer.eos]
    for prompt, answer in ANSWERS.items()
  ]
  width = max(len(row) + len(end) for row, end in zip(rows, ends))
  batch = {
    "tokens": np.full((len(rows), width), decoder_text.PAD, np.int32),
    "weights": np.zeros((len(rows), width), np.float32),
  }
  for i, (row, end) in enumerate(zip(rows, ends)):
    batch["tokens"][i, : len(row) + len(end)] = row + end
    batch["weights"][i, len(row) : len(row) + len(end)] = 1
  assert batching.token_fields(batch) == {"tokens": decoder_text.PAD}
  optimizer = optax.adam(0.01)
  loss_fn = functools.partial(train_step.loss_fn, model_config=config)
  step = jax.jit(train_step.make_train_step(loss_fn, optimizer))
  state = train_step.init_state(family.init(config, jax.random.key(0)), optimizer)
  losses = []
  for _ in range(150):
    state, metrics = step(state, batch, jax.random.key(1))
    losses.append(float(metrics["loss"]))
  return state["params"], losses[0], losses[-1]


def test_a_family_of_one_file_trains_answers_and_is_exported(family, tokenizer, tmp_path):
  section = {"family": "bag_of_words", "vocab_size": 0, "d_model": 16}
  section |= {"dtype": "float32", "param_dtype": "float32"}
  assert not configs.model_problems(section)
  assert configs.model_problems(section | {"d_model": 0}) == [
    "config.model.d_model: expected a whole number of at least 1, got 0"
  ]
  config = families.from_section(section, tokenizer.size)
  assert families.of(config) is family
  params, first, last = train(family, config, tokenizer)
  assert last < 0.05 < first

  model = loading.LoadedModel(params, config, tokenizer)
  assert model.decoder_only
  prompts = list(ANSWERS)
  scores = ranking.rank(model, prompts, ["answer"] * len(prompts), CANDIDATES)
  best = [CANDIDATES["answer"][int(row.argmax())] for row in scores]
  assert best == list(ANSWERS.values())
  assert scores[0][0] == pytest.approx(
    log_p(family, params, config, tokenizer, prompts[0], "London"), rel=1e-4
  )
  for method in ("greedy", "beam"):
    options = decoding.DecodingOptions(max_length=8, method=method)
    texts, _ = decoding.generate(model, prompts, options)
    assert texts == list(ANSWERS.values())

  huggingface.save(tmp_path / "bag", params, config)
  assert huggingface.read_json(tmp_path / "bag")["model_type"] == "bag_of_words"
  loaded, loaded_config = huggingface.load(tmp_path / "bag")
  assert loaded_config == config
  jax.tree.map(np.testing.assert_array_equal, loaded, params)


def log_p(family, params, config, tokenizer, prompt, answer):
  """Log-probability of an answer after a prompt, from the logits of the whole row."""
  before = decoder_text.encode_prompt(tokenizer, prompt)
  tokens = before + tokenizer.encode_continuation(prompt, answer)
  hidden = family.hidden(params, config, {"tokens": jnp.asarray([tokens])})
  log_probabilities = np.asarray(jax.nn.log_softmax(family.head(params, config, hidden)[0]))
  return sum(
    log_probabilities[position - 1, tokens[position]]
    for position in range(len(before), len(tokens))
  )


def test_without_the_file_there_is_no_such_family(tmp_path):
  with pytest.raises(UserError, match="expected one of .*, t5.*, got 'bag_of_words'"):
    families.named("bag_of_words")
  (tmp_path / "config.json").write_text('{"model_type": "bag_of_words"}')
  with pytest.raises(UserError, match="model_type 'bag_of_words' is not supported"):
    huggingface.config_of(str(tmp_path))
