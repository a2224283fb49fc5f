"""ByT5 and mT5 from transformers' folder through training, answers and conversion, and back."""

import filecmp
import json
import os

import answered
import hf_t5
import hf_tokenizers
import jax
import numpy as np
import pytest
import tiny_pretrained

from factshock.answering import asking
from factshock.answering.decoding import DecodingOptions
from factshock.answering.prompting import Prompting
from factshock.checkpoints import conversion
from factshock.facts import relations as relation_files
from factshock.facts import schema, world
from factshock.models import t5
from factshock.models.formats import huggingface
from factshock.runtime import console
from factshock.study import finetuning

SIZES = dict(d_model=16, d_ff=24, num_heads=2, d_kv=8)
BYT5 = t5.T5Config(vocab_size=384, encoder_layers=2, decoder_layers=1, **SIZES)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  """A folder with facts, relations, text, and a ByT5 of random weights with its tokenizer."""
  import transformers

  folder = tmp_path_factory.mktemp("byt5")
  made = world.make_world(0, relations=1, subjects=12, answers=4, mean_mentions=3)
  schema.write_facts(folder / "facts.jsonl", made.facts)
  relation_files.write_relations(folder / "relations.jsonl", made.relations)
  (folder / "text.txt").write_text("".join(sentence + "\n" for sentence in made.sentences))
  hf_t5.peer(BYT5).save_pretrained(folder / "byt5")
  transformers.ByT5Tokenizer().save_pretrained(folder / "byt5")
  return folder


def ask(home, model, output, mode, capsys):
  options = asking.AnswerOptions(
    mode=mode,
    prompting=Prompting("cloze"),
    decoding=DecodingOptions(max_length=24),
    relations=str(home / "relations.jsonl"),
  )
  console.say_once.cache_clear()
  rows = answered.answer_facts(str(model), str(home / "facts.jsonl"), str(output), options)
  said = capsys.readouterr().err
  assert ("the model writes bytes: answers end after 24 of them" in said) == (mode == "generate")
  return [(row["prediction"], round(row["score"], 3)) for row in rows]


def test_byt5_is_finetuned_answers_and_is_exported(home, tmp_path, capsys):
  import transformers

  config = tiny_pretrained.get_config(str(home / "byt5"))
  config.update(
    facts=str(home / "facts.jsonl"),
    relations=str(home / "relations.jsonl"),
    corpus=str(home / "text.txt"),
    cpu_devices=0,
  )
  checkpoint = finetuning.run(config, str(tmp_path / "work"), ratio=1.0)
  conversion.convert(checkpoint, tmp_path / "hf", "huggingface")
  capsys.readouterr()
  for mode in ("rank", "generate"):
    ours = ask(home, checkpoint, tmp_path / f"{mode}.jsonl", mode, capsys)
    assert ours == ask(home, tmp_path / "hf", tmp_path / f"{mode}_hf.jsonl", mode, capsys)
  for name in ("tokenizer_config.json", "added_tokens.json"):
    assert filecmp.cmp(home / "byt5" / name, tmp_path / "hf" / name, shallow=False)
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
  assert type(tokenizer).__name__ == "ByT5Tokenizer"
  written = json.loads((tmp_path / "hf" / "config.json").read_text())
  assert (written["model_type"], written["vocab_size"]) == ("t5", 384)
  assert (written["num_layers"], written["num_decoder_layers"]) == (2, 1)


@pytest.mark.parametrize("kind", ["MT5", "UMT5"])
def test_the_name_survives_our_own_checkpoints(tmp_path, kind):
  config = t5.T5Config(
    vocab_size=90,
    encoder_layers=2,
    decoder_layers=2,
    bias_in_every_layer=kind == "UMT5",
    **SIZES,
  )
  folder = tmp_path / "theirs"
  hf_tokenizers.mt5_like(folder)
  hf_t5.peer(config, kind=kind).save_pretrained(folder)
  conversion.convert(folder, tmp_path / "ours", "orbax")
  conversion.convert(tmp_path / "ours", tmp_path / "back", "huggingface")
  written = json.loads((tmp_path / "back" / "config.json").read_text())
  assert (written["model_type"], written["architectures"]) == (
    kind.lower(),
    [f"{kind}ForConditionalGeneration"],
  )
  expected, _ = huggingface.load(folder)
  got, read = huggingface.load(tmp_path / "back")
  assert read == config
  jax.tree.map(np.testing.assert_array_equal, got, expected)
  assert "tokenizer_config.json" in os.listdir(tmp_path / "back")
