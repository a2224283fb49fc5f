"""Settings of a training, those of a config's sections `pretrain` and `finetune`, declared once.

A section is flat. Here its optimizer's settings stand in an `OptimizerConfig` of their own,
as they alone, with `accumulate` and the adapters' scale, decide which steps are compiled.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from factshock.data import prompts
from factshock.runtime import settings
from factshock.runtime.settings import Check, setting
from factshock.training.optimizers import OptimizerConfig

_EVAL_STEPS = settings.tuple_of(settings.WHOLE, 1)
_LORA_TARGETS = settings.tuple_of(settings.TEXT)
_MASKING = settings.choice("spans", "salient", "next_token")
_PROMPT = settings.choice(*prompts.PROMPTS)
_END = Check((str,), bool, "'auto', 'eos' or a text such as '.'", required=False)

# Settings that an arm may have and the sections of a config do not.
ARM_SETTINGS = ("l2_sp", "ema", "trained", "frozen", "keep_checkpoints", "keep_optimizer")


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
  """Low-rank adapters (models/lora.py): their rank, their alpha and the matrices that have them."""

  rank: int
  alpha: float
  targets: tuple[str, ...]

  @property
  def scale(self) -> float:
    """Factor of the adapters' product, alpha / rank."""
    return self.alpha / self.rank


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
  """Settings of any training.

  Attributes:
    optimizer: settings of the optimizer and its schedule, `steps` among them.
    batch_size: examples of the main source in a batch.
    input_length: tokens of a row's inputs, at most.
    target_length: tokens of a row's targets, at most; 0 for a decoder-only model.
    pack: puts several short examples into a row.
    accumulate: microbatches that a batch is cut into.
    checkpoint_every: steps between two checkpoints.
    log_every: steps between two entries of the metrics.
    keep_checkpoints: keeps every checkpoint, not only the newest.
  """

  optimizer: OptimizerConfig
  batch_size: int = setting(settings.COUNT)
  input_length: int = setting(settings.COUNT)
  target_length: int = setting(settings.WHOLE)
  pack: bool = setting(settings.FLAG)
  accumulate: int = setting(settings.COUNT)
  checkpoint_every: int = setting(settings.COUNT)
  log_every: int = setting(settings.COUNT)
  keep_checkpoints: bool = setting(settings.FLAG, default=False)

  def __post_init__(self) -> None:
    settings.check_fields(self, "training")

  @property
  def steps(self) -> int:
    """Number of steps of the training."""
    return self.optimizer.steps

  @property
  def adapters(self) -> AdapterConfig | None:
    """Settings of the adapters that are trained; None where the weights themselves are."""
    return None

  @property
  def keeps_optimizer(self) -> bool:
    """Returns whether the last checkpoint of the finished training has the optimizer's state."""
    return True

  @classmethod
  def of(cls, section: Mapping[str, Any]) -> Self:
    """Returns the settings that a flat section of a config holds; its other keys are not read.

    Raises:
      UserError: a value is missing, or one of the optimizer's is out of range.
    """
    optimizer = OptimizerConfig.of(section)
    values = settings.values_of(cls, section, "training")
    return cls(optimizer=optimizer, **values)

  def with_steps(self, steps: int) -> Self:
    """Returns the same settings with another number of steps."""
    optimizer = dataclasses.replace(self.optimizer, steps=steps)
    return dataclasses.replace(self, optimizer=optimizer)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainingConfig(TrainingConfig):
  """Settings of pretraining and of its task on text: config.pretrain.

  Attributes:
    masking: "spans" (T5's span corruption), "salient" (the ends of facts are masked) or
      "next_token".
    noise_density: share of the tokens that are masked, of spans.
    mean_span_length: tokens of a masked span, on average.
    roll: lets a span begin anywhere, the sequence taken as a ring.
    object_share: share of the salient windows whose fact's object is masked.
    subject_share: share of the salient windows whose fact's subject is masked.
    window_words: words of a salient window.
    windows_per_fact: salient windows kept of a fact, at most.
  """

  masking: str = setting(_MASKING)
  noise_density: float = setting(settings.INSIDE)
  mean_span_length: float = setting(settings.POSITIVE)
  roll: bool = setting(settings.FLAG)
  object_share: float = setting(settings.SHARE)
  subject_share: float = setting(settings.SHARE)
  window_words: int = setting(settings.COUNT)
  windows_per_fact: int = setting(settings.COUNT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuningConfig(TrainingConfig):
  """Settings of finetuning on facts: config.finetune, with what an arm says otherwise.

  Attributes:
    eval_steps: steps after which the model answers, rising: those up to `steps`, and `steps`
      itself, so that the end is always measured.
    prompt: how facts are asked: by a statement to complete, a question, or with choices.
    lora_rank: rank of the adapters that are trained in place of the weights; 0 trains the weights.
    lora_alpha: numerator of the adapters' scale, alpha / rank.
    lora_targets: names of the matrices that have adapters.
    end: what is taught to a decoder-only model as the end of an answer: "eos", a text such as ".",
      or "auto", the way that a pretrained model would end it.
    keep_optimizer: keeps the optimizer's state when the training has finished: with AdamW twice the
      room of the weights.
  """

  eval_steps: tuple[int, ...] = setting(_EVAL_STEPS)
  prompt: str = setting(_PROMPT)
  lora_rank: int = setting(settings.WHOLE)
  lora_alpha: float = setting(settings.POSITIVE)
  lora_targets: tuple[str, ...] = setting(_LORA_TARGETS)
  end: str = setting(_END, default="auto")
  keep_optimizer: bool = setting(settings.FLAG, default=False)

  def __post_init__(self) -> None:
    super().__post_init__()
    measured = {step for step in self.eval_steps if step < self.steps}
    measured.add(self.steps)
    eval_steps = tuple(sorted(measured))
    object.__setattr__(self, "eval_steps", eval_steps)

  @property
  def adapters(self) -> AdapterConfig | None:
    """Settings of the adapters that are trained; None where the weights themselves are."""
    if not self.lora_rank:
      return None
    return AdapterConfig(self.lora_rank, self.lora_alpha, self.lora_targets)

  @property
  def keeps_optimizer(self) -> bool:
    """Returns whether the last checkpoint of the finished training keeps the optimizer's state.

    A moving average of the weights, which then answers, is part of it.
    """
    return self.keep_optimizer or bool(self.optimizer.ema)


def section_schema(section: type[TrainingConfig]) -> dict[str, Check]:
  """Returns the checks of a flat section of a config by key, all of them required."""
  checks = arm_schema(section)
  for name in ARM_SETTINGS:
    checks.pop(name, None)
  return checks


def arm_schema(section: type[TrainingConfig]) -> dict[str, Check]:
  """Returns the checks of what an arm may say in place of a section, by key."""
  return settings.schema_of(OptimizerConfig) | settings.schema_of(section)
