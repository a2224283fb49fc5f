"""Text that the pretrained model writes itself, for mixtures without its pretraining corpus.

A model's own samples stand in for what it was pretrained on (Robins 1995; Huang et al. 2024, arXiv
2403.01244): read again while finetuning, they hold it near what it was.
"""

import json
import os

from factshock.answering import batches, decoding, sampling
from factshock.checkpoints.loading import LoadedModel
from factshock.data import prompts as prompt_texts
from factshock.runtime import files, messages, processes
from factshock.runtime.errors import UserError
from factshock.study import pretraining_text, weights
from factshock.study.seed_run import SeedRun
from factshock.training.settings import PretrainingConfig

_MOST_DOCUMENTS = 2000  # more are read again
_SPAN_TOKENS = 16  # that an encoder-decoder writes at a time, its sentinels included
_ROUNDS = 1_000_003  # between the seeds of two studies


def write_if_missing(run: SeedRun, documents: int) -> None:
  """Writes the model's own text into the workdir, once a seed, where it is not there yet.

  Args:
    run: the seed's.
    documents: how many are read at most.

  Raises:
    UserError: the model writes nothing.
  """
  path = run.workdir.text(run.seed, pretraining_text.REPLAY, 0)
  if processes.broadcast(lambda: os.path.exists(path), "replay"):
    return
  count = min(documents, _MOST_DOCUMENTS)
  section = PretrainingConfig.of(run.config.pretrain)
  length = max(1, section.input_length + section.target_length - 2)  # BOS and EOS are added
  messages.say(f"  replay: the pretrained model writes {count:,} texts of up to {length} tokens")
  model = run.loaded(weights.pretrained(run))
  write = _continued if model.decoder_only else _filled
  texts = [text for text in write(model, run, count, length) if text]
  if not texts:
    raise UserError(
      f"config.start_from={run.config.start_from!r}: the model writes no text of its own to replay;"
      " leave out the arms with text='replay'"
    )
  messages.say(f"  replay: {len(texts):,} texts in {path}, the first: {texts[0][:80]!r}")
  with files.atomic_write(path) as file:
    for text in texts:
      file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


def _continued(
  model: LoadedModel,
  run: SeedRun,
  count: int,
  length: int,
) -> list[str]:
  """Returns texts that a decoder-only model samples from the token that a document begins with.

  That is its BOS, or the EOS of the document before where it has none.
  """
  tokenizer = model.tokenizer
  start = tokenizer.eos if tokenizer.bos is None else tokenizer.bos
  return _sampled(model, run, [[start]] * count, length, seed=_ROUNDS * run.seed)


def _filled(
  model: LoadedModel,
  run: SeedRun,
  count: int,
  length: int,
) -> list[str]:
  """Returns texts that an encoder-decoder writes a span at a time, each after what it has written.

  That is the pretraining task of a text whose end is masked. A text ends where it adds nothing.
  """
  texts = [""] * count
  open_rows = list(range(count))
  for round_ in range(length):
    prompts = [f"{texts[row]} {prompt_texts.BLANK}".lstrip() for row in open_rows]
    encoded = [batches.encode_prompt(model, prompt) for prompt in prompts]
    spans = _sampled(model, run, encoded, _SPAN_TOKENS, seed=_ROUNDS * run.seed + round_)
    for row, span in zip(open_rows, spans):
      texts[row] = f"{texts[row]} {span}".strip()
    open_rows = [
      row
      for row, span in zip(open_rows, spans)
      if span and len(model.tokenizer.encode(texts[row])) < length
    ]
    if not open_rows:
      break
  return texts


def _sampled(
  model: LoadedModel,
  run: SeedRun,
  prompts: list[list[int]],
  length: int,
  *,
  seed: int,
) -> list[str]:
  """Returns what a model samples after prompts of tokens, at temperature 1."""
  tokens, _ = sampling.sample(
    model,
    prompts,
    decoding.end_tokens(model),
    max_length=length,
    batch_size=run.config.answering.batch_size,
    drawing=sampling.Drawing(temperature=1.0, seed=seed),
  )
  return [decoding.answer_text(model, row).strip() for row in tokens]
