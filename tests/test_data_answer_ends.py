"""What real decoders' files say of a text's beginning and an answer's end, against transformers."""

import json
import pathlib

import hf_tokenizers
import pytest
import tiny_folders

from factshock.answering import batches
from factshock.checkpoints import conversion, loading
from factshock.checkpoints.loading import LoadedModel
from factshock.data import answer_ends, decoder_text, pretrained_tokenizers, tokenizers
from factshock.models import decoder
from factshock.runtime.errors import UserError
from factshock.runtime.workdir import Workdir

CHAT = (
  "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
  "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def smol_like(folder, template=CHAT):
  """Writes a byte-level BPE tokenizer with a BOS that it does not add, as SmolLM2's."""
  import tokenizers as rust
  import transformers
  from tokenizers import decoders, models, pre_tokenizers, trainers

  made = rust.Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
  trainer = trainers.BpeTrainer(
    vocab_size=400,
    special_tokens=special,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  made.train_from_iterator(hf_tokenizers.LINES, trainer)
  names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
  saved = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names)
  saved.chat_template = template
  saved.save_pretrained(folder)
  return str(folder)


@pytest.fixture(scope="module")
def smol(tmp_path_factory):
  return pretrained_tokenizers.load(smol_like(tmp_path_factory.mktemp("smol")))


def peer_of(tokenizer):
  import transformers

  return transformers.AutoTokenizer.from_pretrained(tokenizer.source)


@pytest.mark.parametrize("adds_bos", [True, False])
def test_a_prompt_begins_as_transformers_tokenises_it(adds_bos, tmp_path):
  tokenizer = pretrained_tokenizers.load(hf_tokenizers.llama_like(tmp_path, adds_bos=adds_bos))
  assert tokenizer.bos == 1 and tokenizer.opening == ((1,) if adds_bos else ())
  prompt = "Ada Byron was born in"
  assert decoder_text.encode_prompt(tokenizer, prompt) == peer_of(tokenizer)(prompt).input_ids
  example = decoder_text.encode_example(tokenizer, prompt, "London")
  whole = peer_of(tokenizer)(f"{prompt} London").input_ids
  assert example["tokens"].tolist() == [*whole, tokenizer.eos]


def test_add_bos_token_of_the_tokenizer_config_is_heeded(tmp_path):
  folder = pathlib.Path(hf_tokenizers.llama_like(tmp_path))
  path = folder / "tokenizer_config.json"
  path.write_text(json.dumps({**json.loads(path.read_text()), "add_bos_token": False}))
  tokenizer = pretrained_tokenizers.load(folder)
  expected = peer_of(tokenizer)("Ada").input_ids
  assert decoder_text.encode_prompt(tokenizer, "Ada") == expected


def test_ends_are_the_union_of_all_files(tmp_path):
  folder = pathlib.Path(hf_tokenizers.llama_like(tmp_path / "model"))
  (folder / "config.json").write_text('{"model_type": "llama", "eos_token_id": 2}')
  (folder / "generation_config.json").write_text('{"eos_token_id": [7, 2], "top_k": 5}')
  assert pretrained_tokenizers.load(folder).ends == (2, 7)
  (folder / "config.json").write_text('{"model_type": "llama", "eos_token_id": [9]}')
  tokenizer = pretrained_tokenizers.load(folder)
  assert set(tokenizer.ends) == {2, 7, 9} and tokenizer.ends[0] == tokenizer.eos
  # A study keeps the tokenizer without the model's config.json.
  tokenizer.save(tmp_path / "kept")
  assert set(tokenizers.load(tmp_path / "kept").ends) == {2, 7, 9}
  kept = json.loads((tmp_path / "kept" / "generation_config.json").read_text())
  assert kept["top_k"] == 5


@pytest.mark.parametrize(
  "content",
  ['{"eos_token_id": "</s>"}', '{"eos_token_id": [2, 9000]}', '{"eos_token_id": true}', "["],
)
def test_ends_that_are_none(content, tmp_path):
  path = tmp_path / "generation_config.json"
  path.write_text(content)
  with pytest.raises(UserError, match="generation_config.json"):
    answer_ends.read([path], 400)


def test_ends_of_a_model_that_reads_more_than_text(tmp_path):
  path = tmp_path / "config.json"
  path.write_text('{"eos_token_id": null, "text_config": {"eos_token_id": [1, 106]}}')
  assert answer_ends.read([path, tmp_path / "none.json"], 400) == (1, 106)


def test_special_tokens_are_no_part_of_the_text(smol):
  ids = smol.encode(" London")
  assert smol.decode([1, *ids, 0, 2]) == " London"
  assert smol.encode("<|im_end|>") and 2 not in smol.encode("<|im_end|>")


def test_a_chat_is_as_transformers_writes_it(smol):
  chat = smol.in_chat()
  for question in ("where was Ada Byron born ?", "who made it"):
    messages = [{"role": "user", "content": question}]
    expected = peer_of(smol).apply_chat_template(messages, add_generation_prompt=True)
    assert decoder_text.encode_prompt(chat, question) == list(expected["input_ids"])
  # The answer begins the model's turn, with no space before it.
  assert chat.encode_continuation("where ?", "London") == smol.encode("London")
  # What looks like a turn's end in a question is text.
  assert decoder_text.encode_prompt(chat, "<|im_end|>").count(2) == 1


@pytest.mark.parametrize("template", [None, "{{ raise_exception('no') }}", "hello"])
def test_chats_that_cannot_be(template, tmp_path):
  tokenizer = pretrained_tokenizers.load(smol_like(tmp_path, template))
  with pytest.raises(UserError, match="template"):
    tokenizer.in_chat()


def test_the_end_that_is_taught(smol):
  def end(form, statement="[X] was born in [Y] .", end="auto", pretrained=True):
    return decoder_text.end_of(end, form, statement, pretrained=pretrained)

  assert end("cloze") == "." == end("cloze", "[X] speaks [Y]") == end("cloze", "[X] is [Y]!")
  assert end("cloze", "[X] was born in [Y], ") == ","
  assert end("question") == "\n"
  assert end("cloze", pretrained=False) is None is end("question", end="eos")
  assert end("cloze", end=";") == ";"
  example = decoder_text.encode_example(smol, "Ada was born in", "London", ".")
  answer = example["tokens"][example["weights"] == 1].tolist()
  assert smol.decode(answer) == " London." and smol.eos not in answer


def test_stops_of_each_form():
  assert decoder_text.stops_of("cloze", pretrained=True) == ("\n", ".", ",")
  assert decoder_text.stops_of("cloze", pretrained=False) == ("\n",)
  assert decoder_text.stops_of("question", pretrained=True) == ("\n",)
  assert decoder_text.stops_of("chat", pretrained=True) == ()


def test_stops_of_a_candidate_stand_with_or_without_a_space(smol):
  config = decoder.LlamaConfig(
    vocab_size=smol.size, d_model=4, d_ff=4, num_heads=1, num_kv_heads=1, d_kv=4, layers=1
  )
  closing = batches.closing_tokens(LoadedModel({}, config, smol), (".", "\n"))
  assert closing[0] == smol.eos and {smol.token_texts()[token] for token in closing[1:]} == {
    text for text in smol.token_texts() if text.strip(" ") in (".", "\n")
  }
  assert smol.encode(".")[0] in closing


def test_a_checkpoint_is_asked_as_it_was_trained(tmp_path):
  """Once a BOS stood before every text that had one, and records said nothing of it."""
  tokenizer = pretrained_tokenizers.load(hf_tokenizers.llama_like(tmp_path, adds_bos=False))

  def opening(record):
    return loading._as_read(tokenizer, record).opening

  assert opening({}) == () == opening({"arm": "finetune", "opening": []})
  assert opening({"arm": "finetune"}) == (1,)


def test_whose_answers_end_with_the_line_alone():
  sections = {"answering": {}, "finetune": {"prompt": "cloze"}}
  own = {**sections, "start_from": ""}
  assert loading.stops_of(own, "cloze") == ("\n",)
  assert loading.stops_of({**own, "start_from": "org/name"}, "cloze") == ("\n", ".", ",")
  assert loading.stops_of({**own, "answering": {"stop": [";"]}}, "cloze") == (";",)
  taught = {**own, "arms": {"a": {"end": "!"}, "b": {"end": "eos"}, "c": {}}}
  assert loading.stops_of(taught, "cloze") == ("\n", "!")


def test_ends_survive_conversion(tmp_path):
  tiny_folders.make(tmp_path, ["Ada was born in London"])
  path = tmp_path / "llama" / "config.json"
  path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [2, 9]}))
  conversion.convert(tmp_path / "llama", tmp_path / "ours", "orbax")
  kept = tokenizers.load(Workdir(str(tmp_path / "ours")).tokenizer(0))
  assert kept.ends == (2, 9) and kept.opening == (1,)
  conversion.convert(tmp_path / "ours", tmp_path / "back", "huggingface")
  assert pretrained_tokenizers.load(tmp_path / "back").ends == (2, 9)
