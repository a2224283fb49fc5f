"""Train step of a section and the shapes of what it takes; nothing of a model is allocated."""

import dataclasses
import functools

import jax
import numpy as np
import optax

from factshock.data import pretrained_tokenizers
from factshock.models import families, lora
from factshock.models.model_config import ModelConfig
from factshock.study import training
from factshock.study.config import Config
from factshock.training import train_step as steps
from factshock.training.settings import TrainingConfig
from factshock.training.train_step import StepFn, TrainState
from factshock.types import Batch, Params


@dataclasses.dataclass(frozen=True)
class StepShapes:
  """A train step and what it takes.

  Attributes:
    step_fn: the step.
    optimizer: what makes the state's optimizer arrays.
    state: shapes of the train state.
    batch: a batch of zeros, of the shapes that the section's batches have.
    frozen: shapes of the weights that are not trained; None where all are.
  """

  step_fn: StepFn
  optimizer: optax.GradientTransformation
  state: TrainState
  batch: Batch
  frozen: Params | None


def of(
  model_config: ModelConfig,
  section: TrainingConfig,
  rows: int,
) -> StepShapes:
  """Returns the train step of a section, with batches of some number of rows."""
  adapters = section.adapters
  step_fn, optimizer = training.train_step(
    model_config, section.optimizer, section.accumulate, adapters.scale if adapters else None
  )
  init = functools.partial(families.of(model_config).init, model_config)
  params = jax.eval_shape(init, jax.random.key(0))
  frozen = None
  if adapters:
    frozen = params
    init_adapters = functools.partial(lora.init, rank=adapters.rank, targets=adapters.targets)
    params = jax.eval_shape(init_adapters, params, jax.random.key(0))
  state = jax.eval_shape(functools.partial(steps.init_state, optimizer=optimizer), params)
  return StepShapes(step_fn, optimizer, state, _batch(model_config, section, rows), frozen)


def import_libraries(config: Config) -> None:
  """Imports what training of a config holds in memory beside the step: its tokenizer's library."""
  if config.tokenizer.kind == "huggingface":
    pretrained_tokenizers.import_library()


def _batch(
  model_config: ModelConfig,
  section: TrainingConfig,
  rows: int,
) -> Batch:
  """Returns a batch of zeros, of the shapes that the section's batches have."""
  if families.of(model_config).decoder_only:
    length = section.input_length + section.target_length
    batch = {
      "tokens": np.zeros((rows, length), np.int32),
      "weights": np.zeros((rows, length), np.float32),
    }
    segments = {"segments": "tokens"}
  else:
    batch = {
      "inputs": np.zeros((rows, section.input_length), np.int32),
      "targets": np.zeros((rows, section.target_length), np.int32),
      "weights": np.zeros((rows, section.target_length), np.float32),
    }
    segments = {"input_segments": "inputs", "target_segments": "targets"}
  if section.pack:
    batch |= {name: batch[field] for name, field in segments.items()}
  return batch
