"""Train steps of PyTorch transformers and PEFT in bfloat16: the peers of parts.train_step."""

from collections.abc import Callable

import peft
import torch
import transformers

from factshock.models.decoder import LlamaConfig
from factshock.models.t5 import T5Config
from factshock.types import Batch
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


def peak_gigabytes() -> float:
  """Returns the most memory that PyTorch has held on a GPU, 0 without one."""
  return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0


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


def _model(config: T5Config | LlamaConfig, trained: str) -> torch.nn.Module:
  """Returns a transformers model of the same sizes."""
  if isinstance(config, T5Config):
    return transformers.T5ForConditionalGeneration(
      transformers.T5Config(
        vocab_size=config.vocab_size,
        d_model=config.d_model,
        d_kv=config.d_kv,
        d_ff=config.d_ff,
        num_layers=config.encoder_layers,
        num_heads=config.num_heads,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        tie_word_embeddings=False,
        pad_token_id=0,
        decoder_start_token_id=0,
      )
    )
  model = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      vocab_size=config.vocab_size,
      hidden_size=config.d_model,
      intermediate_size=config.d_ff,
      num_hidden_layers=config.layers,
      num_attention_heads=config.num_heads,
      num_key_value_heads=config.num_kv_heads,
      tie_word_embeddings=config.tie_head,
      pad_token_id=0,
      use_cache=False,
    )
  )
  if trained == "all":
    return model
  targets = [_NAMES[name] for name in train_step.TARGETS]
  adapters = peft.LoraConfig(r=train_step.RANK, lora_alpha=32, target_modules=targets)
  return peft.get_peft_model(model, adapters)
