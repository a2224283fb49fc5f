"""Models as the Python API hands them on: opened once, asked as often as one likes."""

import dataclasses
import os

import jax

from factshock.answering import methods
from factshock.checkpoints.loading import Origin
from factshock.interface import parameters
from factshock.knowledge_graph.pipeline import ModelIdentity
from factshock.runtime import answer_dtypes
from factshock.served.models import ServedModel
from factshock.types import Config, FilePath


@dataclasses.dataclass(frozen=True, repr=False)
class Model:
  """Model in memory or served elsewhere, and what its folder says of it.

  Attributes:
    loaded: its weights, config and tokenizer, or where it is served.
    origin: where it is from, and how it was finetuned.
  """

  loaded: methods.Model
  origin: Origin

  @property
  def source(self) -> str:
    """Returns what the model was loaded from."""
    return self.origin.checkpoint

  @property
  def parameters(self) -> int | None:
    """Returns how many parameters the model has; None where it is served elsewhere."""
    if isinstance(self.loaded, ServedModel):
      return None
    return sum(leaf.size for leaf in jax.tree.leaves(self.loaded.params))

  def identity(self) -> ModelIdentity:
    """Returns the model's name, the digest of its weights, and how it was mixed."""
    return {"model": self.source, **methods.identity_of(self.source)}

  def __repr__(self) -> str:
    if isinstance(self.loaded, ServedModel):
      return f"<served model {self.source}>"
    kind = type(self.loaded.model_config).__name__.removesuffix("Config")
    return f"<{kind} of {self.parameters:,} parameters from {self.source}>"


def load(
  source: FilePath,
  config: Config | None = None,
  tokenizer: str | None = None,
  dtype: str | None = None,
) -> Model:
  """Returns the model of a checkpoint, a HuggingFace model, a .gguf file or an endpoint."""
  parameters.check_among("dtype", dtype, answer_dtypes.NAMES)
  return Model(*methods.open_model(os.fspath(source), config, tokenizer, dtype))


def opened(model: Model | FilePath) -> Model:
  """Returns a model, loaded where only its name is given."""
  return model if isinstance(model, Model) else load(model)


def source_of(model: Model | FilePath) -> str:
  """Returns the path or hub id of a model, opened or not."""
  return model.source if isinstance(model, Model) else os.fspath(model)
