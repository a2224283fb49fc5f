"""Multiple-choice scoring against the model's own forward pass, and the prompts of MMLU."""

import hf_tokenizers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from factshock.answering import choices
from factshock.checkpoints.loading import LoadedModel
from factshock.data import pretrained_tokenizers, prompts
from factshock.data.tokenizers import word_tokenizer
from factshock.models import decoder, t5
from factshock.runtime.errors import UserError

FACT = {
  "subject": "s",
  "relation": "high_school_physics",
  "object": "four",
  "question": "Two and two?",
  "choices": ["one", "four", "five"],
}
SHOT = {**FACT, "subject": "t", "question": "One?", "object": "one"}


def test_prompts_of_mmlu():
  head = "The following are multiple choice questions (with answers) about high school physics.\n\n"
  assert prompts.choice_prompt(FACT, [SHOT]) == (
    head + "One?\nA. one\nB. four\nC. five\nAnswer: A\n\n"
    "Two and two?\nA. one\nB. four\nC. five\nAnswer:"
  )
  assert prompts.choice_prompt(FACT, [SHOT], "<extra_id_0>", letters=False) == (
    head + "One?\nAnswer: one\n\nTwo and two?\nAnswer: <extra_id_0>"
  )
  for wrong in (
    {**FACT, "object": "six"},
    {key: value for key, value in FACT.items() if key != "choices"},
  ):
    with pytest.raises(UserError, match="expected 2 to 8 `choices` with the object"):
      prompts.choice_prompt(wrong, [])


forward_t5, forward_llama = (
  jax.jit(t5.forward, static_argnums=1),
  jax.jit(decoder.forward, static_argnums=1),
)
TEXTS = ["w1 w2 <extra_id_0>", "w3 w4 w5 w6 w7 <extra_id_0> w8", "<extra_id_0> w2"]
CHOICES = [["w1", "w2 w3"], ["w4 w4 w5", "w9"], ["w7 w8", "w0"]]


def test_a_t5s_scores_are_those_of_its_forward_pass():
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
  params = jax.tree.map(lambda x: x * 3 if x.ndim > 1 else x, t5.init(config, jax.random.key(0)))
  found, sizes = choices.score(LoadedModel(params, config, tokenizer), TEXTS, CHOICES, batch_size=2)
  assert sizes.tolist() == [[1, 2], [3, 1], [2, 1]]
  for text, each, scores in zip(TEXTS, CHOICES, found):
    inputs = jnp.array([tokenizer.encode(text) + [tokenizer.eos]], jnp.int32)
    for choice, score in zip(each, scores):
      targets = jnp.array([tokenizer.encode("<extra_id_0> " + choice)], jnp.int32)
      log_p = jax.nn.log_softmax(forward_t5(params, config, inputs, targets))[0]
      assert score == pytest.approx(
        float(log_p[jnp.arange(1, targets.shape[1]), targets[0, 1:]].sum()), rel=1e-4
      )


def test_a_llamas_scores_are_those_of_its_forward_pass(tmp_path):
  tokenizer = pretrained_tokenizers.load(hf_tokenizers.llama_like(tmp_path))
  config = decoder.LlamaConfig(
    vocab_size=tokenizer.size, d_model=16, d_ff=24, num_heads=2, num_kv_heads=1, d_kv=8, layers=2
  )
  params = jax.tree.map(
    lambda x: x * 3 if x.ndim > 1 else x, decoder.init(config, jax.random.key(0))
  )
  texts, each = (
    ["Q: who made it ?\nA:", "Tokyo Paris:"],
    [["Grace Hopper", "London"], ["Rome", "Ada Byron"]],
  )
  found, _ = choices.score(LoadedModel(params, config, tokenizer), texts, each)
  for text, options, scores in zip(texts, each, found):
    before = [tokenizer.bos, *tokenizer.encode(text)]
    for choice, score in zip(options, scores):
      tokens = np.array([before + tokenizer.encode_continuation(text, choice)], np.int32)
      log_p = jax.nn.log_softmax(forward_llama(params, config, tokens))[0]
      places = np.arange(len(before), tokens.shape[1])
      assert score == pytest.approx(float(log_p[places - 1, tokens[0, places]].sum()), rel=1e-4)


@pytest.mark.parametrize("letters", [True, False])
def test_rows_name_the_choice_and_score_all_of_them(letters, tmp_path):
  tokenizer = pretrained_tokenizers.load(hf_tokenizers.llama_like(tmp_path))
  config = decoder.LlamaConfig(
    vocab_size=tokenizer.size, d_model=16, d_ff=24, num_heads=2, num_kv_heads=1, d_kv=8, layers=1
  )
  scores = choices.of_facts(
    LoadedModel(decoder.init(config, jax.random.key(0)), config, tokenizer),
    [FACT],
    [prompts.choice_prompt(FACT, [SHOT], "", letters)],
    letters=letters,
    batch_size=4,
  )
  (row,) = choices.rows([FACT], scores, arm="a", seed=0, split="test")
  assert row["prediction"] == row["candidates"][0][0] and sorted(
    name for name, _ in row["candidates"]
  ) == sorted(FACT["choices"])
  values = [value for _, value in row["candidates"]]
  assert values == sorted(values, reverse=True) and row["arm"] == "a"
