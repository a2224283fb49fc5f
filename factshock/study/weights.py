"""Weights of a study: pretrained, finetuned, random, or those it starts from."""

import functools
from typing import Any

import jax

from factshock.checkpoints import belongings, store, tree_files
from factshock.models import families, lora
from factshock.models.formats import huggingface
from factshock.runtime.settings import raise_if_any
from factshock.study import start_checks, training
from factshock.study.seed_run import SeedRun
from factshock.training.settings import PretrainingConfig
from factshock.types import Params


def pretrained(run: SeedRun) -> Params:
  """Returns the pretrained weights: read back, or trained if need be.

  They are trained from scratch or from config.start_from. A damaged checkpoint is set aside.
  """
  section = PretrainingConfig.of(run.config.pretrain)
  folder = run.workdir.checkpoints("pretrained", run.seed)
  if training.starts_ready(run.config):
    return start_weights(run)
  if store.agreed_latest_step(folder) == section.steps:
    try:
      return store.restore_params(folder)
    except tree_files.Damaged as error:
      store.set_aside(folder, section.steps, error)
  start = functools.partial(random_params, run)
  if run.config.start_from:
    _check_start(run)  # before text is read and a file is written
    start = functools.partial(start_weights, run)
  if section.steps:
    return training.train(run, "pretrained", section, run.texts("whole"), start)
  params = start()
  store.save(folder, 0, params=params, config=training.provenance(run, "pretrained"))
  return params


def finetuned(
  run: SeedRun,
  arm: str,
  step: int | None = None,
) -> Params:
  """Returns the weights of a finetuned arm; adapters are merged into the pretrained weights.

  Args:
    run: the seed's.
    arm: the arm's name.
    step: that of a kept checkpoint; None takes the newest.
  """
  folder = run.workdir.checkpoints(arm, run.seed)
  params = store.restore_params(folder, step)
  record: Any = store.read_manifest(folder, step)["config"]
  if "lora" not in record:
    return params
  adapters = record["lora"]
  scale = adapters["alpha"] / adapters["rank"]
  return lora.merge(pretrained(run), params, scale)


def random_params(run: SeedRun) -> Params:
  """Returns random weights of the study's model, by its seed."""
  family = families.of(run.model_config)
  return family.init(run.model_config, jax.random.key(run.seed))


def start_weights(run: SeedRun) -> Params:
  """Returns the weights that config.start_from names.

  That is a checkpoint of ours, or a HuggingFace folder or hub id.

  Raises:
    UserError: nothing there, or a model of other sizes than config.model, or of other tokens than
      the run's tokenizer (naming each).
  """
  source = run.config.start_from
  _check_start(run)
  if belongings.is_checkpoint(source):
    like = {"params": jax.eval_shape(lambda: random_params(run))}
    return store.restore(source, like=like)["params"]
  params, *_ = huggingface.load(source, param_dtype=run.model_config.param_dtype)
  return params


def _check_start(run: SeedRun) -> None:
  source = run.config.start_from
  raise_if_any(start_checks.start_problems(source, run.model_config, run.tokenizer))
