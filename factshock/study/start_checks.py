"""Checks of the model that a study starts from and of its tokenizer, before weights are read.

Read are config.json or the manifest, the headers of the weights, and the tokenizer.
"""

import functools
import os

import jax

from factshock.checkpoints import belongings, recorded_models, store, token_maps
from factshock.data import pretrained_tokenizers, tokenizers
from factshock.models import families
from factshock.models.formats import huggingface, t5x
from factshock.models.model_config import ModelConfig
from factshock.runtime.errors import UserError
from factshock.runtime.settings import attempt
from factshock.study.config import Config
from factshock.types import Tokenizer


def problems(config: Config) -> list[str]:
  """Returns what is wrong with the start model and the tokenizer that a config names, a line each.

  Sizes are compared with config.model, and tokens with the tokenizer where it is not made here.
  """
  lines: list[str] = []
  start = config.start_from
  stored = attempt(lambda: _stored_config(start), lines, "config.start_from: ") if start else None
  tokenizer = None
  if config.tokenizer.path or not lines:  # else it is that of a model that is not there
    tokenizer = attempt(lambda: given_tokenizer(config), lines, "config.tokenizer: ")
  section = config.model.to_dict()
  if not tokenizer and not section["vocab_size"]:
    section["vocab_size"] = stored.vocab_size if stored else 1  # what the tokenizer will have
  size = tokenizer.size if tokenizer else 0
  model_config = attempt(lambda: families.from_section(section, size), lines)
  if start and model_config and not lines:
    lines += start_problems(start, model_config, tokenizer)
  return lines


def given_tokenizer(config: Config) -> Tokenizer | None:
  """Returns the tokenizer that a config names; None where it is made of the study's text.

  Raises:
    UserError: there is none, or none for the config's family.
  """
  section = config.tokenizer
  if section.kind == "words" or not (section.path or section.kind == "huggingface"):
    return None
  if section.kind == "sentencepiece":
    return tokenizers.sentencepiece_tokenizer(section.path, section.sentinels)
  source = section.path or config.start_from
  pretrained = pretrained_tokenizers.load(source)
  if not families.named(config.model.family).decoder_only:
    pretrained_tokenizers.check_has_sentinels(pretrained, source)
  return pretrained


def start_problems(
  start: str,
  model_config: ModelConfig,
  tokenizer: Tokenizer | None,
) -> list[str]:
  """Returns how a model to start from differs from the study's, a line for each kind of difference.

  Args:
    start: a checkpoint of ours, or a HuggingFace folder or hub id.
    model_config: the study's.
    tokenizer: the study's; None leaves tokens unchecked.
  """
  lines: list[str] = []
  stored = attempt(lambda: _stored_config(start), lines, "config.start_from: ")
  differing = families.differences(stored, model_config) if stored else []
  if differing:
    lines.append(
      f"config.start_from={start}: is another model than config.model says (there, here):\n  "
      + "\n  ".join(differing)
      + "\n  --config=pretrained:PATH takes the sizes from the model"
    )
  if not lines and belongings.is_checkpoint(start):
    attempt(functools.partial(_check_leaves, start, model_config), lines, "config.start_from: ")
  if tokenizer and not lines and belongings.is_checkpoint(start):
    attempt(functools.partial(_check_tokens, start, tokenizer), lines, "config.start_from: ")
  return lines


def _stored_config(start: str) -> ModelConfig | None:
  """Returns the config of a model to start from; None of a checkpoint that does not say it.

  Raises:
    UserError: nothing there, or no model of whole weights that can be read.
  """
  if not belongings.is_checkpoint(start):
    # Headers of weights too, but for a model on the hub, whose weights are fetched when they are
    # read.
    if os.path.exists(start):
      return huggingface.open_source(start).config
    return huggingface.config_of(start)
  if t5x.is_checkpoint(start):
    raise UserError(
      f"{start}: is a T5X checkpoint; convert it first (factshock convert "
      "--model=... --to=huggingface)"
    )
  if os.path.exists(start) and not os.path.isdir(start):
    raise UserError(f"{start}: expected the folder of a model, got a file; give the folder")
  folder = store.step_folder(start)
  manifest = store.read_manifest(folder)
  record = manifest["config"] or {}
  if "lora" in record:
    raise UserError(
      f"{folder}: holds adapters, not a whole model; merge them first "
      "(factshock convert --model=... --to=orbax)"
    )
  if "model" not in (record.get("experiment") or {}):
    return None
  return recorded_models.config_of(folder, manifest)


def _check_leaves(start: str, model_config: ModelConfig) -> None:
  """Raises a UserError where a checkpoint's leaves are not those of a model of the config."""
  init = functools.partial(families.of(model_config).init, model_config)
  folder = store.step_folder(start)
  like = {"params": jax.eval_shape(init, jax.random.key(0))}
  store.check_like(folder, store.read_manifest(folder)["leaves"], like)


def _check_tokens(start: str, tokenizer: Tokenizer) -> None:
  """Raises a UserError where a checkpoint was trained with other tokens than a tokenizer's."""
  theirs = token_maps.of_model(start)
  conflict = token_maps.conflict(theirs, tokenizer.token_ids()) if theirs else None
  if conflict:
    raise UserError(
      f"{start}: was trained with another tokenizer than the study's ({conflict}), so that its "
      "weights would mean other words; name its tokenizer in config.tokenizer.path"
    )
