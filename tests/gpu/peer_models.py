"""Models of PyTorch transformers with random weights and the sizes of ours."""

from typing import Any

import transformers

from factshock.models import families
from factshock.models.model_config import ModelConfig


def make(config: ModelConfig) -> Any:
  """Returns a transformers model without dropout, on PyTorch's device and of its dtype as set."""
  values = families.of(config).huggingface.write_config(config)
  values |= {"dropout_rate": 0.0, "pad_token_id": 0, "use_cache": False}
  model_class = getattr(transformers, values["architectures"][0])
  return model_class(model_class.config_class.from_dict(values))
