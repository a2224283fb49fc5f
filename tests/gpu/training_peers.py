"""Train steps of PyTorch transformers and PEFT in bfloat16: the peers of parts.train_step."""

from collections.abc import Callable
from typing import Any

import peft
import torch

from factshock.models.decoder import LlamaConfig
from factshock.models.t5 import T5Config
from factshock.types import Batch
from gpu import peer_models
from gpu.parts import train_step

_NAMES = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}


def runner(
  config: T5Config | LlamaConfig,
  trained: str,
  batch: Batch,
  compiled: bool,
  device: str,
  tiny: bool,
) -> Callable[[], float]:
  """Returns a function that takes a step and waits for its loss."""
  torch.set_default_dtype(torch.bfloat16)
  with torch.device(device):
    model = _model(config, trained).train()
  arguments = _arguments(batch, device)
  trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
  optimizer = torch.optim.AdamW(trainable, lr=1e-4, weight_decay=0.0, fused=True)
  backend = "aot_eager" if tiny else "inductor"
  call = torch.compile(model, backend=backend) if compiled else model

  def run() -> float:
    loss = call(**arguments).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()

  return run


def _arguments(batch: Batch, device: str) -> dict[str, torch.Tensor]:
  """Returns a batch as a transformers model takes it."""
  tensors = {
    name: torch.tensor(array, dtype=torch.long, device=device)
    for name, array in batch.items()
    if name != "weights"
  }
  if "inputs" in tensors:
    return {"input_ids": tensors["inputs"], "labels": tensors["targets"]}
  return {"input_ids": tensors["tokens"], "labels": tensors["tokens"]}


def _model(config: T5Config | LlamaConfig, trained: str) -> Any:
  """Returns a transformers model of the same sizes."""
  model = peer_models.make(config)
  if trained == "all":
    return model
  targets = [_NAMES[name] for name in train_step.TARGETS]
  adapters = peft.LoraConfig(r=train_step.RANK, lora_alpha=32, target_modules=targets)
  return peft.get_peft_model(model, adapters)
