"""Tokenizers of GGUF files: the ids of SentencePiece itself, cuts by llama.cpp's names, errors."""

import io
import json

import gguf_models
import numpy as np
import pytest
import sentencepiece
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from factshock.data import pretrained_tokenizers, tokenizers
from factshock.models.formats.gguf import merges, pre_tokenizers
from factshock.models.formats.gguf import tokenizers as gguf_tokenizers
from factshock.runtime.errors import UserError

LINES = [
  "where was Ada Byron born ? London , in 1815",
  "the quick brown fox jumps over the lazy dog 0123456789",
  "Tokyo Paris Berlin Rome  and  the  others",
  "Zoë's naïve café",
] * 5
TEXTS = st.text(
  st.sampled_from("the quick  Paris\n\t019,.ëé½ﬁ日😀\u00a0▁e\u0301")
  | st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Cn", "Co")),
  max_size=30,
)
ODD = [
  "",
  " ",
  "  two",
  "two  ",
  "a" + " " * 7 + "b",
  "\n\n\nx",
  "1234567",
  "Ünï 日本 😀👩‍👧",
  "</s> <s>",
]


def trained(**options):
  """Returns a SentencePiece model of LINES, and its pieces, scores and types as GGUF has them."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(LINES), model_writer=model, minloglevel=3, **options
  )
  proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
  rows = [(piece.piece, piece.score, piece.type) for piece in proto.pieces]
  return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()), proto, rows


def write(path, kind, rows, **values):
  """Writes a file of a vocabulary alone."""

  def add(writer):
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token for token, _, _ in rows])
    writer.add_token_scores([score for _, score, _ in rows])
    writer.add_token_types([int(type_) for _, _, type_ in rows])
    for name, value in values.items():
      getattr(writer, f"add_{name}")(value)

  gguf_models.write(path, "llama", {"x": np.ones((1, 2), np.float32)}, [add])
  return pretrained_tokenizers.load(path)


@pytest.fixture(scope="module", params=[True, False], ids=["prefix", "no prefix"])
def pieces(request, tmp_path_factory):
  """SentencePiece's BPE with bytes, as Llama has it, and the same from a file."""
  processor, _, rows = trained(
    model_type="bpe",
    vocab_size=380,
    byte_fallback=True,
    normalization_rule_name="identity",
    remove_extra_whitespaces=False,
    add_dummy_prefix=request.param,
    # Behind such a token a text begins anew, prefix and all, for llama.cpp and for transformers.
    user_defined_symbols=[] if request.param else ["\n\n"],
  )
  path = tmp_path_factory.mktemp("spm") / "x.gguf"
  ours = write(
    path,
    "llama",
    rows,
    bos_token_id=1,
    eos_token_id=2,
    unk_token_id=0,
    add_space_prefix=request.param,
  )
  return processor, ours


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_pieces_are_those_of_sentencepiece(pieces, text):
  processor, ours = pieces
  if text:  # of nothing, SentencePiece and HuggingFace's tokenizers make nothing
    assert ours.encode(text) == processor.encode(text)
    assert ours.decode(ours.encode(text)).strip() == text.replace("▁", " ").strip()


def test_odd_texts_have_the_pieces_of_sentencepiece(pieces):
  processor, ours = pieces
  for text in ODD:
    assert ours.encode(text) == processor.encode(text), text
  assert (ours.bos, ours.eos, ours.pad) == (1, 2, None)
  # A text of transformers' begins with a BOS, as llama.cpp has it where a file does not say.
  assert ours._tokenizer.encode("the") == [1, *processor.encode("the")]


def test_runs_of_spaces_that_users_defined_are_merged_first(tmp_path):
  """As Gemma has them: with real spaces and a score that says nothing."""
  rows = [
    ("<pad>", -1000.0, 3),
    ("<eos>", -1000.0, 3),
    ("<bos>", -1000.0, 3),
    ("<unk>", -1000.0, 3),
  ]
  rows += [(" " * count, -1000.0, 4) for count in (2, 3, 4)] + [("\n", -1000.0, 4)]
  rows += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
  rows += [("▁a", -0.0, 1), ("ab", -1.0, 1), ("▁", -2.0, 1), ("a", -3.0, 1), ("b", -4.0, 1)]
  ours = write(
    tmp_path / "x.gguf", "llama", rows, eos_token_id=1, bos_token_id=2, add_space_prefix=False
  )
  ids = {token: number for number, (token, _, _) in enumerate(rows)}
  assert ours.encode("a  a") == [ids["a"], ids["  "], ids["a"]]
  assert ours.encode(" ab") == [ids["▁a"], ids["b"]]
  assert ours.encode("    b\n") == [ids["    "], ids["b"], ids["\n"]]
  assert ours.decode(ours.encode("    b\n a")) == "    b\n a"


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
  """T5's unigrams with its normalisation, and the same from a file filled up to 300 tokens."""
  processor, proto, rows = trained(
    model_type="unigram", vocab_size=60, pad_id=0, eos_id=1, unk_id=2, bos_id=-1
  )
  filled = rows + [(f"[PAD{number}]", -1000.0, 5) for number in range(len(rows), 300)]
  path = tmp_path_factory.mktemp("t5") / "x.gguf"
  charsmap = list(proto.normalizer_spec.precompiled_charsmap)
  ours = write(
    path,
    "t5",
    filled,
    eos_token_id=1,
    unk_token_id=2,
    pad_token_id=0,
    add_space_prefix=True,
    precompiled_charsmap=bytes(charsmap),
  )
  return processor, ours, path


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_unigrams_are_those_of_sentencepiece(t5, text):
  processor, ours, _ = t5
  # WhitespaceSplit, which T5's own tokenizer.json has, knows more spaces than SentencePiece.
  assert ours.encode(text) == processor.encode(" ".join(processor.normalize(text).split()))


def test_a_t5_has_its_sentinels_and_no_fillers(t5):
  processor, ours, path = t5
  size = processor.get_piece_size()
  assert (ours.size, ours.sentinels, ours.pad, ours.eos) == (size + 100, 100, 0, 1)
  assert ours.sentinel(0) == size + 99
  text = "Ada <extra_id_0> born in <extra_id_1> ."
  parts = [processor.encode(part) for part in ("Ada", "born in", ".")]
  expected = [*parts[0], size + 99, *parts[1], size + 98, *parts[2]]
  assert ours.encode(text) == expected
  assert ours._tokenizer.encode("Ada")[-1] == 1  # T5's own ends each text
  written = gguf_tokenizers.generation_config(gguf_tokenizers.read(path))
  assert written == {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}


def byte_level(tmp_path, pre, **flags):
  path = tmp_path / "bpe.gguf"
  gguf_models.write(
    path,
    "llama",
    {"x": np.ones((1, 2), np.float32)},
    [lambda writer: gguf_models.add_tokenizer(writer, 300, pre, **flags)],
  )
  return pretrained_tokenizers.load(path)


@pytest.mark.parametrize("pre", sorted(pre_tokenizers.KNOWN))
def test_byte_level_texts_come_back(tmp_path, pre):
  ours = byte_level(tmp_path, pre)
  for text in ODD:
    assert ours.decode(ours.encode(text)) == text
  adds_bos = pre_tokenizers.KNOWN[pre].add_bos
  assert ours._tokenizer.encode("the")[:1] == ([1] if adds_bos else ours.encode("the")[:1])


@pytest.mark.parametrize(
  ("pre", "text", "tokens"),
  [
    ("gpt-2", " 1234", ["Ġ", "12", "3", "4"]),
    ("smollm", " 12", ["Ġ", "1", "2"]),  # each digit alone, without the space before it
    ("smollm", "½2", ["Â", "½", "2"]),
    ("qwen2", " 12", ["Ġ", "1", "2"]),
    ("llama-bpe", " 1212", ["Ġ", "12", "1", "2"]),  # by three
    ("qwen2", "e\u0301", ["Ã", "©"]),  # composed, as Qwen's own tokenizer has it
    ("llama-bpe", "e\u0301", ["e", "Ì", "ģ"]),
    ("default", "the the", ["t", "he", "Ġthe"]),
  ],
)
def test_texts_are_cut_as_the_name_says(tmp_path, pre, text, tokens):
  ours = byte_level(tmp_path, pre)
  assert ours._tokenizer.convert_ids_to_tokens(ours.encode(text)) == tokens


def test_flags_of_a_file_come_before_defaults(tmp_path):
  added = byte_level(tmp_path, "gpt-2", add_bos_token=True, add_eos_token=True)
  assert added._tokenizer.encode("1")[0] == 1 and added._tokenizer.encode("1")[-1] == 2
  plain = byte_level(tmp_path, "llama-bpe", add_bos_token=False)
  assert plain._tokenizer.encode("1") == plain.encode("1")


def test_control_tokens_are_found_in_texts_by_transformers_and_are_text_here(tmp_path):
  ours = byte_level(tmp_path, "gpt-2")
  assert ours._tokenizer.encode("1</s>")[-1] == 2
  assert 2 not in ours.encode("1</s>") and ours.decode(ours.encode("1</s>")) == "1</s>"


def test_ends_are_the_metadatas_and_those_that_control_tokens_name(tmp_path):
  def ends(tokens, **values):
    rows = [(token, 0.0, 3 if token.startswith("<") else 1) for token in tokens]
    write(tmp_path / "x.gguf", "llama", rows, **values)
    vocabulary = gguf_tokenizers.read(tmp_path / "x.gguf")
    return gguf_tokenizers.generation_config(vocabulary)["eos_token_id"]

  assert ends(["<eos>", "a"], eos_token_id=0) == 0
  assert ends(["<eos>", "a", "<end_of_turn>"], eos_token_id=0) == [0, 2]
  assert ends(["<x>", "a", "<|eot_id|>", "<y>"], eos_token_id=3, eot_token_id=0) == [3, 0, 2]


def test_a_file_that_names_no_cut_gets_a_warning_once(tmp_path, capsys):
  ours = byte_level(tmp_path, None)
  ours.encode("the 12")
  assert capsys.readouterr().err.count("does not say how text is cut into words") == 1


def test_the_chat_template_and_the_ends_are_kept_with_a_saved_tokenizer(tmp_path):
  ours = byte_level(tmp_path, "gpt-2", chat_template="{{ messages }}")
  tokenizers.save(ours, tmp_path / "saved")
  saved = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
  assert saved["chat_template"] == "{{ messages }}" and saved["eos_token"] == "</s>"
  assert (tmp_path / "saved" / "generation_config.json").exists()
  assert tokenizers.load(tmp_path / "saved").digest == ours.digest
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
  assert theirs.encode("the 12") == ours.encode("the 12")


ROWS = [("<s>", 0.0, 3), ("</s>", 0.0, 3), ("a", 0.0, 1), ("b", 0.0, 1)]


@pytest.mark.parametrize(
  ("kind", "rows", "values", "message"),
  [
    ("bert", ROWS, {}, "the tokenizer 'bert' is not supported; supported are gpt2, llama, t5"),
    ("llama", ROWS, {"eos_token_id": 9}, "expected the id of one of 4 tokens .*, got 9"),
    ("llama", [*ROWS, ROWS[-1]], {"eos_token_id": 1}, "holds the token 'b' twice"),
    ("gpt2", ROWS, {"eos_token_id": 1}, "expected the merges of its tokens"),
    ("gpt2", ROWS, {"token_merges": ["a b"]}, "two tokens that make up a third .* got 'a b'"),
    ("llama", ROWS, {}, "expected a tokenizer with an end-of-sequence token"),
  ],
)
def test_a_tokenizer_that_cannot_be_read_is_one_error(tmp_path, kind, rows, values, message):
  with pytest.raises(UserError, match=message) as caught:
    write(tmp_path / "x.gguf", kind, rows, **values)
  assert "\n" not in str(caught.value)


def test_a_cut_that_is_not_known_is_refused(tmp_path):
  with pytest.raises(
    UserError, match="the pre-tokenizer 'kimi-k2' is not supported; supported are"
  ):
    byte_level(tmp_path, "kimi-k2")
  gguf_models.write(tmp_path / "none.gguf", "llama", {"x": np.ones((1, 2), np.float32)})
  with pytest.raises(UserError, match="holds no tokenizer"):
    pretrained_tokenizers.load(tmp_path / "none.gguf")


def test_merges_come_in_the_order_of_scores():
  tokens = ["a", "b", "ab", "aba", "ba"]
  derived = merges.derived(tokens, [1] * 5, [-4.0, -5.0, -2.0, -3.0, -1.0])
  assert derived == [("b", "a"), ("a", "b"), ("a", "ba"), ("ab", "a")]
