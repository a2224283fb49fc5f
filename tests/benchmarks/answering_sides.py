"""Answers and scores of transformers, on the GPU where the model is, and of CTranslate2."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers


def generator(
  model: Any,
  prompts: Sequence[Sequence[int]],
  batch_size: int,
  tokens: int,
  ends: Sequence[int] = (),
  beams: int = 1,
) -> Callable[[], np.ndarray]:
  """Returns a function that answers all prompts: int64 [prompts, tokens], 0 after an end.

  Args:
    model: an encoder-decoder or a decoder-only model.
    prompts: token lists, taken in their order and filled up to the longest of their batch.
    batch_size: prompts at a time.
    tokens: new ones at most.
    ends: ids that end an answer.
    beams: 1 is greedy.
  """
  model.generation_config.eos_token_id = None
  left = not model.config.is_encoder_decoder

  def answer(part: Sequence[Sequence[int]]) -> np.ndarray:
    inputs_BxS, mask_BxS = _filled(part, left)
    rows = model.generate(
      torch.tensor(inputs_BxS, device=model.device),
      attention_mask=torch.tensor(mask_BxS, device=model.device),
      max_new_tokens=tokens,
      do_sample=False,
      use_cache=True,
      pad_token_id=0,
      eos_token_id=[*ends] or None,
      num_beams=beams,
    )
    new = rows[:, inputs_BxS.shape[1] if left else 1 :].cpu().numpy()
    return np.pad(new, ((0, 0), (0, tokens - new.shape[1])))

  def run() -> np.ndarray:
    with torch.inference_mode():
      return np.concatenate([answer(part) for part in _parts(prompts, batch_size)])

  return run


def ctranslate2_generator(
  model: Any,
  prompts: Sequence[Sequence[int]],
  batch_size: int,
  tokens: int,
  ends: Sequence[int],
  compute_type: str,
) -> Callable[[], np.ndarray]:
  """Returns a function that answers all prompts greedily by CTranslate2, as `generator` does.

  Args:
    model: of transformers; it is converted, with a tokenizer of words "w17" for ids.
    prompts: token lists; CTranslate2 sorts them by length and cuts batches.
    batch_size: prompts at a time.
    tokens: new ones at most; so many where nothing ends an answer.
    ends: ids that end an answer; without any, EOS is forbidden.
    compute_type: "float32" or "int8".
  """
  import ctranslate2  # a peer, which may be missing

  folder = tempfile.mkdtemp(prefix="ctranslate2-")
  source, target = f"{folder}/source", f"{folder}/{compute_type}"
  model.save_pretrained(source)
  words = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({f"w{i}": i for i in range(model.config.vocab_size)}, "w2")
  )
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=words, eos_token="w1", pad_token="w0", unk_token="w2", bos_token="w2"
  ).save_pretrained(source)
  converter = ctranslate2.converters.TransformersConverter(source)
  converter.convert(target, quantization=compute_type, force=True)
  texts = [[f"w{token}" for token in prompt] for prompt in prompts]
  least = 0 if ends else tokens
  options = dict(
    beam_size=1, max_batch_size=batch_size, end_token=[f"w{end}" for end in ends or [1]]
  )
  threads = dict(device="cpu", compute_type=compute_type, intra_threads=os.cpu_count())
  if model.config.is_encoder_decoder:
    translator = ctranslate2.Translator(target, **threads)

    def words_of() -> list[list[str]]:
      found = translator.translate_batch(
        texts, max_decoding_length=tokens, min_decoding_length=least, **options
      )
      return [result.hypotheses[0] for result in found]

  else:
    generator = ctranslate2.Generator(target, **threads)

    def words_of() -> list[list[str]]:
      found = generator.generate_batch(
        texts, max_length=tokens, min_length=least, include_prompt_in_result=False, **options
      )
      return [result.sequences[0] for result in found]

  shutil.rmtree(folder)

  def run() -> np.ndarray:
    rows = np.zeros((len(prompts), tokens), np.int64)
    for row, said in zip(rows, words_of()):
      row[: len(said)] = [int(word[1:]) for word in said]
    return rows

  return run


def scores(model: Any, first: np.ndarray, second: np.ndarray, batch_size: int) -> np.ndarray:
  """Returns the summed log-probability of each row of `answering_tasks.pairs`, float32."""
  score = _encoder_decoder_scores if model.config.is_encoder_decoder else _decoder_scores
  found = []
  with torch.inference_mode():
    for begin in range(0, len(first), batch_size):
      part = slice(begin, begin + batch_size)
      rows = (torch.tensor(array[part].astype(np.int64)) for array in (first, second))
      found.append(score(model, *(row.to(model.device) for row in rows)))
    return torch.cat(found).cpu().numpy()


def _encoder_decoder_scores(
  model: Any, inputs: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
  before = torch.nn.functional.pad(targets[:, :-1], (1, 0))
  logits = model(input_ids=inputs, decoder_input_ids=before, use_cache=False).logits
  return _summed(logits, targets, targets != 0)


def _decoder_scores(model: Any, tokens: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
  """Returns the scores; logits are made from the last token of the prompt on alone."""
  prompt = int(counted[0].nonzero()[0])
  kept = tokens.shape[1] - prompt + 1
  logits = model(input_ids=tokens, use_cache=False, logits_to_keep=kept).logits[:, :-1]
  return _summed(logits, tokens[:, prompt:], counted[:, prompt:] != 0)


def _summed(logits: torch.Tensor, targets: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
  logits = logits.float()
  picked = logits.gather(-1, targets[..., None])[..., 0] - logits.logsumexp(-1)
  return torch.where(counted, picked, 0.0).sum(-1)


def _parts(prompts: Sequence[Sequence[int]], size: int) -> Iterator[Sequence[Sequence[int]]]:
  for begin in range(0, len(prompts), size):
    yield prompts[begin : begin + size]


def _filled(prompts: Sequence[Sequence[int]], left: bool) -> tuple[np.ndarray, np.ndarray]:
  """Returns ids [B, S] filled up with 0 on one side, and 1 where there are tokens."""
  longest = max(map(len, prompts))
  inputs_BxS = np.zeros((len(prompts), longest), np.int64)
  mask_BxS = np.zeros((len(prompts), longest), np.int64)
  for row, prompt in enumerate(prompts):
    begin = longest - len(prompt) if left else 0
    inputs_BxS[row, begin : begin + len(prompt)] = prompt
    mask_BxS[row, begin : begin + len(prompt)] = 1
  return inputs_BxS, mask_BxS
