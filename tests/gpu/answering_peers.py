"""Answers and scores of PyTorch transformers in bfloat16: peers of parts.generation and ranking."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from benchmarks import answering_sides

from factshock.models.decoder import LlamaConfig
from factshock.models.t5 import T5Config
from gpu import peer_models


def generator(
  config: T5Config | LlamaConfig,
  prompts: Sequence[Sequence[int]],
  batch_size: int,
  tokens: int,
  device: str,
) -> Callable[[], np.ndarray]:
  """Returns a function that answers all prompts greedily; no token ends an answer."""
  return answering_sides.generator(_model(config, device), prompts, batch_size, tokens)


def scorer(
  config: T5Config | LlamaConfig,
  rows: tuple[np.ndarray, np.ndarray],
  batch_size: int,
  device: str,
) -> Callable[[], np.ndarray]:
  """Returns a function that scores the rows of `answering_tasks.pairs`."""
  model = _model(config, device)
  return lambda: answering_sides.scores(model, *rows, batch_size)


def _model(config: T5Config | LlamaConfig, device: str) -> Any:
  torch.set_default_dtype(torch.bfloat16)
  with torch.device(device):
    model = peer_models.make(config).eval()
  # What is computed later is computed as in any program.
  torch.set_default_dtype(torch.float32)
  return model
