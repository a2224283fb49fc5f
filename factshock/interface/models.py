"""Models as the Python API hands them on: opened once, asked as often as one likes."""

import dataclasses
import os

import jax

from factshock.checkpoints import loading
from factshock.checkpoints.loading import LoadedModel, Origin
from factshock.interface import parameters
from factshock.knowledge_graph.pipeline import ModelIdentity
from factshock.runtime import answer_dtypes
from factshock.types import Config, FilePath


@dataclasses.dataclass(frozen=True, repr=False)
class Model:
  """Model in memory, and what its folder says of it.

  Attributes:
    loaded: its weights, config and tokenizer.
    origin: where it is from, and how it was finetuned.
  """

  loaded: LoadedModel
  origin: Origin

  @property
  def source(self) -> str:
    """Returns what the model was loaded from."""
    return self.origin.checkpoint

  @property
  def parameters(self) -> int:
    """Returns how many parameters the model has."""
    return sum(leaf.size for leaf in jax.tree.leaves(self.loaded.params))

  def identity(self) -> ModelIdentity:
    """Returns the model's name, the digest of its weights, and how it was mixed."""
    return {"model": self.source, **loading.identity_of(self.source)}

  def __repr__(self) -> str:
    kind = type(self.loaded.model_config).__name__.removesuffix("Config")
    return f"<{kind} of {self.parameters:,} parameters from {self.source}>"


def load(
  source: FilePath,
  config: Config | None = None,
  tokenizer: str | None = None,
  dtype: str | None = None,
) -> Model:
  """Returns the model of a checkpoint's folder, a HuggingFace folder or hub id, or a .gguf file."""
  parameters.check_among("dtype", dtype, answer_dtypes.NAMES)
  return Model(*loading.open_model(os.fspath(source), config, tokenizer, dtype))


def opened(model: Model | FilePath) -> Model:
  """Returns a model, loaded where only its name is given."""
  return model if isinstance(model, Model) else load(model)


def source_of(model: Model | FilePath) -> str:
  """Returns the path or hub id of a model, opened or not."""
  return model.source if isinstance(model, Model) else os.fspath(model)
