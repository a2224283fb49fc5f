"""Small tokenizers in HuggingFace's files, of Llama's kind and of T5's, trained on a few lines."""

LINES = [
  "where was Ada Byron born ? London",
  "Ada Byron was born in London .",
  "Q: who made it ?",
  "A: Grace Hopper",
  "Tokyo Paris Berlin Rome",
  "the quick brown fox jumps over the lazy dog 0123456789",
]


def llama_like(folder, bos=True, lines=LINES, adds_bos=True, size=400):
  """Writes a BPE tokenizer with <unk>, <s>, </s> and no padding token; returns the folder as text.

  With `adds_bos` it puts <s> before a text, as Llama's does; SmolLM2's has a BOS and does not.
  """
  import tokenizers
  from tokenizers import decoders, models, pre_tokenizers, processors, trainers

  made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
  made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
  made.decoder = decoders.Sequence(
    [
      decoders.Replace("▁", " "),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(" ", 1, 0),
    ]
  )
  special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
  made.train_from_iterator(
    lines, trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False)
  )
  if bos and adds_bos:
    made.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
  return _save(
    made, folder, unk_token="<unk>", eos_token="</s>", **({"bos_token": "<s>"} if bos else {})
  )


def t5_like(folder, sentinels=10, lines=LINES):
  """Writes a unigram tokenizer with <pad>, </s>, <unk> and sentinels from the top down; returns the
  folder.
  """
  import tokenizers
  from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

  made = tokenizers.Tokenizer(models.Unigram())
  made.pre_tokenizer = pre_tokenizers.Metaspace()
  made.decoder = decoders.Metaspace()
  made.train_from_iterator(
    lines,
    trainers.UnigramTrainer(
      vocab_size=80,
      special_tokens=["<pad>", "</s>", "<unk>"],
      unk_token="<unk>",
      show_progress=False,
    ),
  )
  made.add_special_tokens(
    [AddedToken(f"<extra_id_{n}>", normalized=False) for n in reversed(range(sentinels))]
  )
  return _save(made, folder, unk_token="<unk>", eos_token="</s>", pad_token="<pad>")


def _save(made, folder, **special):
  import transformers

  transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)
  return str(folder)


def mt5_like(folder, sentinels=5, lines=LINES):
  """Writes a SentencePiece model whose last pieces are "▁<extra_id_N>", from the top down, as the
  published mT5 has it; returns the folder.
  """
  import io
  import json

  import sentencepiece
  from sentencepiece import sentencepiece_model_pb2

  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(lines * 5),
    model_writer=model,
    vocab_size=60,
    model_type="unigram",
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    hard_vocab_limit=False,
    minloglevel=3,
  )
  record = sentencepiece_model_pb2.ModelProto()
  record.ParseFromString(model.getvalue())
  for n in reversed(range(sentinels)):
    record.pieces.add(piece=f"▁<extra_id_{n}>", score=0.0, type=4)
  folder.mkdir()
  (folder / "spiece.model").write_bytes(record.SerializeToString())
  (folder / "tokenizer_config.json").write_text(
    json.dumps(
      {
        "additional_special_tokens": None,
        "eos_token": "</s>",
        "extra_ids": 0,
        "pad_token": "<pad>",
        "tokenizer_class": "T5Tokenizer",
        "unk_token": "<unk>",
      }
    )
  )
  return str(folder)
