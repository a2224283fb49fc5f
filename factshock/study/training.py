"""Training of a study's models: the step of a section, the run of an arm, and its checkpoints."""

import contextlib
import dataclasses
import functools
import gc
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import optax

from factshock.checkpoints import belongings, loading
from factshock.data import example_sources, mixture, tokenizer_files
from factshock.devices import host, partitioning
from factshock.models import families, layers, lora
from factshock.models.model_config import ModelConfig
from factshock.runtime import processes
from factshock.study import config as configs
from factshock.study import finetuning_examples
from factshock.study.finetuning_examples import FinetuningData
from factshock.study.seed_run import SeedRun
from factshock.training import drivers, dry_run, loggers, loop, metrics, optimizers, saving
from factshock.training import train_step as steps
from factshock.training.optimizers import OptimizerConfig
from factshock.training.settings import FinetuningConfig, PretrainingConfig, TrainingConfig
from factshock.training.train_step import LossFn, Scalars, StepFn, TrainState
from factshock.types import Batch, Params

_ORDERS = 1_000_003  # between the seeds of two orders of one study
_LARGE_BYTES = 200_000_000  # of weights, from which on memory counts more than compiling again


@functools.cache
def train_step(
  model_config: ModelConfig,
  optimizer_config: OptimizerConfig,
  accumulate: int,
  lora_scale: float | None = None,
  axis: str | None = None,
) -> tuple[StepFn, optax.GradientTransformation]:
  """Returns the train step and its optimizer; one object each, so that it is compiled once.

  Args:
    model_config: the model's.
    optimizer_config: the optimizer's settings.
    accumulate: microbatches that a batch is cut into.
    lora_scale: of adapters, which are then what is trained; the step takes the weights as its
      `frozen`. None trains the weights.
    axis: name of the mapped axis that the step sums over (pmap), or None.
  """
  optimizer = optimizers.make_optimizer(optimizer_config)
  if lora_scale is None:
    loss: LossFn = functools.partial(steps.loss_fn, model_config=model_config)
  else:
    loss = _adapter_loss(model_config, lora_scale)
  return steps.make_train_step(loss, optimizer, accumulate, axis), optimizer


def _adapter_loss(model_config: ModelConfig, lora_scale: float) -> LossFn:
  def loss(
    adapters: Params,
    frozen: Params,
    batch: Batch,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, Scalars]:
    params = lora.attach(frozen, adapters, lora_scale)
    return steps.loss_fn(params, model_config, batch=batch, key=key)

  return loss


def train(
  run: SeedRun,
  name: str,
  section: TrainingConfig,
  sources: Sequence[tuple[example_sources.Source, float]],
  start: Callable[[], Params],
  *,
  order: int = 0,
  evaluate: Callable[[int, Params], None] | None = None,
  profile_steps: int = 0,
) -> Params:
  """Trains on a mixture of sources by one section; goes on where it was interrupted.

  Args:
    run: the seed's.
    name: of the arm; its checkpoints and metrics stand under it.
    section: settings of the training. Where it asks for adapters these are trained.
    sources: each with its part of a batch, any positive numbers.
    start: gives the weights that training starts from; nobody else holds them, so that they are in
      memory once.
    order: of the examples, together with the seed.
    evaluate: function of (step, params), called at a FinetuningConfig's eval_steps; its params have
      the adapters attached.
    profile_steps: of so many steps a trace is written to WORKDIR/profile.

  Returns:
    The trained parameters, or adapters.
  """
  trained, frozen = _split(run, section, start)
  options = loop.Options(
    mesh=run.mesh,
    parallel=run.config.parallel,
    label=name,
    log_every=section.log_every,
    checkpoint=_checkpointing(run, name, section),
    evaluation=_evaluation(section, evaluate, frozen),
    profile=_profile(run, profile_steps),
  )
  return _run_loop(run, section, _batches(run, section, sources, order), trained, frozen, options)


def _split(
  run: SeedRun,
  section: TrainingConfig,
  start: Callable[[], Params],
) -> tuple[Callable[[], Params], Params | None]:
  """Returns what gives the parameters to train, and those to leave as they are.

  The latter are the weights where there are adapters, else None.
  """
  adapters = section.adapters
  if adapters is None:
    return start, None
  params = start()
  trained = lora.init(params, jax.random.key(run.seed), adapters.rank, adapters.targets)
  return lambda: trained, layers.bits_on_cpu(params)


def _run_loop(
  run: SeedRun,
  section: TrainingConfig,
  batches: mixture.Batches,
  trained: Callable[[], Params],
  frozen: Params | None,
  options: loop.Options,
) -> Params:
  """Runs the training loop with the metrics open; returns the trained parameters, whole."""
  adapters = section.adapters
  step_fn, optimizer = train_step(
    run.model_config,
    section.optimizer,
    section.accumulate,
    adapters.scale if adapters else None,
    drivers.AXIS if options.parallel == "pmap" else None,
  )

  def first() -> TrainState:
    return drivers.init_state(trained(), optimizer, run.mesh, options.parallel)

  _make_room(run)
  with _open_metrics(run, options.label) as writer:
    state = loop.train(
      first,
      step_fn,
      batches,
      steps=section.steps,
      key=jax.random.key(run.seed),
      frozen=frozen,
      options=dataclasses.replace(options, metrics=writer),
    )
  if processes.process_count() == 1:
    return state["params"]
  # Each process has shards of the weights; what comes after them computes with whole ones.
  return partitioning.fetch(state["params"])


def _make_room(run: SeedRun) -> None:
  """Lets go of what earlier stages compiled, where the model is so large that memory is scarce."""
  init = functools.partial(families.of(run.model_config).init, run.model_config)
  if dry_run.tree_bytes(jax.eval_shape(init, jax.random.key(0))) > _LARGE_BYTES:
    drivers.forget_compiled()
    gc.collect()  # what asked before is in circles: a gigabyte after the model wrote its own text
    host.release_freed_memory()


def _evaluation(
  section: TrainingConfig,
  evaluate: Callable[[int, Params], None] | None,
  frozen: Params | None,
) -> loop.Evaluation | None:
  """Returns the evaluations at a section's eval_steps, of averaged weights, adapters attached."""
  if evaluate is None or not isinstance(section, FinetuningConfig):
    return None
  adapters = section.adapters

  def weights(state: TrainState) -> Params:
    average = optimizers.averaged(state)
    if frozen is None or adapters is None:
      return average
    return lora.attach(frozen, average, adapters.scale)

  return loop.Evaluation(evaluate, section.eval_steps, weights)


def _batches(
  run: SeedRun,
  section: TrainingConfig,
  sources: Sequence[tuple[example_sources.Source, float]],
  order: int,
) -> mixture.Batches:
  return mixture.batches(
    [source for source, _ in sources],
    [ratio for _, ratio in sources],
    batch_size=section.batch_size,
    input_length=section.input_length,
    target_length=section.target_length,
    seed=run.seed + _ORDERS * order,
    pack_to=row_multiple(run, section) if section.pack else 0,
    rows_of=functools.partial(partitioning.local_rows, run.mesh),
  )


@contextlib.contextmanager
def _open_metrics(run: SeedRun, name: str) -> Iterator[metrics.Metrics | None]:
  """Yields the metrics of an arm, in the first process alone; None in the others."""
  if not processes.is_first():
    yield None
    return
  names = loggers.names_of(run.config.get("loggers", loggers.DEFAULT))
  info = loggers.RunInfo(run.config.name, run.seed, configs.to_dict(run.config))
  with metrics.Metrics(run.workdir.metrics(name, run.seed), names, info) as writer:
    yield writer


def _checkpointing(
  run: SeedRun,
  name: str,
  section: TrainingConfig,
) -> saving.Checkpointing:
  return saving.Checkpointing(
    run.workdir.checkpoints(name, run.seed),
    section.checkpoint_every,
    provenance(run, name, section),
    None if section.keep_checkpoints else 2,
    section.keeps_optimizer,
  )


def _profile(run: SeedRun, steps: int) -> loop.Profile | None:
  return loop.Profile(run.workdir.profile, steps) if steps else None


def finetune(
  run: SeedRun,
  name: str,
  data: FinetuningData,
  section: FinetuningConfig,
  start: Callable[[], Params],
  *,
  evaluate: Callable[[int, Params], None] | None = None,
  profile_steps: int = 0,
) -> Params:
  """Finetunes weights on facts, with `data.ratio` examples of the pretraining task to each.

  Args:
    run: the seed's.
    name: of the arm.
    data: the facts, what is taught of them and what is mixed in.
    section: settings of the finetuning; its lengths are the most a row may have, its batch size
      counts the questions.
    start: as in `train`.
    evaluate: function of (step, params), called at the section's eval_steps.
    profile_steps: as in `train`.

  Returns:
    The finetuned parameters, or adapters.
  """
  questions, needs = finetuning_examples.question_source(run, data, section.prompt, section.end)
  text = PretrainingConfig.of(run.config.pretrain) if data.ratio else None
  section = finetuning_examples.fit_lengths(section, needs, text)
  section = dataclasses.replace(section, batch_size=round(section.batch_size * (1 + data.ratio)))
  texts = run.texts(data.text) if data.ratio else []
  return train(
    run,
    name,
    section,
    [(questions, 1.0), *((source, data.ratio * share) for source, share in texts)],
    start,
    order=data.order,
    evaluate=evaluate,
    profile_steps=profile_steps,
  )


def row_multiple(run: SeedRun, section: TrainingConfig) -> int:
  """Returns the number that packed rows come in multiples of.

  Devices and microbatches share them evenly.
  """
  return math.lcm(partitioning.batch_shard_count(run.mesh), section.accumulate)


def provenance(
  run: SeedRun,
  arm: str,
  section: TrainingConfig | None = None,
) -> dict[str, Any]:
  """Returns what a checkpoint says of itself.

  That is its experiment, the workdir with its tokenizer and relations, and for adapters the weights
  they stand on.
  """
  record = {
    "arm": arm,
    "seed": run.seed,
    "workdir": run.workdir.absolute_path,
    "experiment": configs.to_dict(run.config),
  }
  tokenizer = run.workdir.tokenizer(run.seed)
  if os.path.isdir(tokenizer):
    record[belongings.TOKENIZER_DIGEST] = tokenizer_files.folder_digest(tokenizer)
  if run.is_decoder:
    record[loading.OPENING] = list(run.tokenizer.opening)
  adapters = section.adapters if section else None
  if adapters:
    base = _base(run)
    record["lora"] = {
      "rank": adapters.rank,
      "alpha": adapters.alpha,
      "base": base,
      belongings.BASE_DIGEST: belongings.model_digest(base),
    }
  return record


def _base(run: SeedRun) -> str:
  """Returns the path of the pretrained weights: a checkpoint's folder or a HuggingFace model."""
  if starts_ready(run.config):
    start = run.config.start_from
    # Not relative: the checkpoint may be read from another folder.
    return os.path.abspath(start) if os.path.isdir(start) else start
  return os.path.abspath(run.workdir.checkpoints("pretrained", run.seed))


def starts_ready(config: configs.Config) -> bool:
  """Returns whether the pretrained weights are a HuggingFace model's, untouched.

  They are then not copied into the workdir.
  """
  return (
    bool(config.start_from)
    and config.pretrain.steps == 0
    and not belongings.is_checkpoint(config.start_from)
  )
