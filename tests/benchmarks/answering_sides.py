"""Answers and scores of PyTorch transformers, for benchmarks; on the GPU where the model is."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch


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
