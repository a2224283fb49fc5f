"""How the models of a study are trained: the examples of a finetuning set, the step of a section, and where checkpoints stand."""

import contextlib
import dataclasses
import functools
import math
import os

import jax
import numpy as np

from factshock.checkpoints import loading
from factshock.data import batching, decoder_text, mixture, prompts, soft_labels
from factshock.devices import partitioning
from factshock.facts import splits
from factshock.models import layers, lora
from factshock.runtime import processes
from factshock.study import answers, seed_run
from factshock.study import config as configs
from factshock.training import drivers, loop, metrics, optimizers
from factshock.training import train_step as steps
from factshock.training.settings import FinetuningConfig, PretrainingConfig, TrainingConfig

_ORDERS = 1_000_003  # between the seeds of two orders of one study


def question_source(
  study, facts, prompt, loss_weight=1.0, belief=None, fact_weights=None, adjustment=0.0
):
  """(source, longest [input, target] tokens) of finetuning examples: each fact's prompt and its answer.

  Args:
    belief: None for the facts' own objects; else for each fact probabilities [candidates] that are taught in their place.
    fact_weights: None, or for each fact what its loss is multiplied by. adjustment: strength of the logit adjustment by how often the
      facts have each answer (data/soft_labels.py); 0 for none.
  """

  room, fields = (
    (decoder_text, ("tokens",)) if study.is_decoder else (prompts, ("inputs", "targets"))
  )
  texts = study.prompt_texts(facts, seed_run.Question(prompt))
  if belief is not None or adjustment:
    belief = belief or [answers.on_object(study, fact) for fact in facts]
    encode = lambda row, place: room.encode_example(
      study.tokenizer, texts[row], study.candidates[facts[row]["relation"]][place]
    )
    prior = functools.cache(
      lambda relation: splits.answer_prior(facts, relation, study.candidates[relation])
    )
    priors = [prior(fact["relation"]) for fact in facts] if adjustment else None
    source = soft_labels.soft_source(
      encode,
      belief,
      priors,
      adjustment,
      loss_weight,
      pad=decoder_text.PAD if study.is_decoder else 0,
    )
    examples = [
      encode(row, int(place)) for row, p in enumerate(belief) for place in np.flatnonzero(p)
    ]
  else:
    examples = [
      room.encode_example(study.tokenizer, text, prompts.answer_text(fact, prompt))
      for text, fact in zip(texts, facts)
    ]
    for example, weight in zip(examples, () if fact_weights is None else fact_weights):
      example["weights"] = np.float32(weight) * example.get(
        "weights", np.ones(len(example[fields[-1]]), np.float32)
      )
    source = (decoder_text if study.is_decoder else mixture).qa_source(examples, loss_weight)
  lengths = tuple(max(len(one[field]) for one in examples) for field in fields)
  return source, lengths if len(lengths) == 2 else (*lengths, 0)


@functools.cache
def train_step(model, settings, accumulate, lora_scale=None, axis=None):
  """The train step and optimizer of a model and an optimization section; one object each, so compiled once.

  With a `lora_scale` the step trains adapters and takes the weights as its `frozen`; with an `axis` it sums over it (pmap).
  """

  def adapted(adapters, frozen, **arguments):
    return steps.loss_fn(lora.attach(frozen, adapters, lora_scale), model, **arguments)

  optimizer = optimizers.make_optimizer(settings)
  loss = functools.partial(steps.loss_fn, model_config=model) if lora_scale is None else adapted
  return steps.make_train_step(loss, optimizer, accumulate, axis), optimizer


def train(
  study,
  name,
  section,
  sources,
  ratios,
  rows,
  params,
  order=0,
  evaluate=None,
  eval_steps=(),
  profile_steps=0,
):
  """Trains `params` on a mixture of sources by one optimization section; goes on where it was interrupted.

  A batch has `rows` times the section's batch_size examples, of which each source gives its share by `ratios`, in an order by the
  study's seed and `order`.
  Of `profile_steps` steps a trace is written to WORKDIR/profile. Where the section asks for adapters these are trained, and `evaluate` gets the params with them attached.

  Returns:
    The trained parameters, or adapters.
  """

  adapters = section.adapters
  scale = adapters.scale if adapters else None
  frozen = None
  parallel = study.config.parallel
  step_fn, optimizer = train_step(
    study.model_config,
    section.optimizer,
    section.accumulate,
    scale,
    drivers.AXIS if parallel == "pmap" else None,
  )
  if adapters:
    trained = lora.init(params, jax.random.key(study.seed), adapters.rank, adapters.targets)
    frozen = layers.bits_on_cpu(params)
    params = trained
  weights = lambda state: (
    lora.attach(frozen, optimizers.averaged(state), scale) if scale else optimizers.averaged(state)
  )
  batch_size = round(section.batch_size * rows)
  batches = mixture.batches(
    sources,
    ratios,
    batch_size=batch_size,
    input_length=section.input_length,
    target_length=section.target_length,
    seed=study.seed + _ORDERS * order,
    pack_to=_row_multiple(study, section) if section.pack else 0,
    rows_of=functools.partial(partitioning.local_rows, study.mesh),
  )
  folder = study.workdir.checkpoints(name, study.seed)
  with contextlib.ExitStack() as stack:
    writer = processes.is_first() and stack.enter_context(
      metrics.Metrics(study.workdir.metrics(name, study.seed))
    )
    state = loop.train(
      drivers.init_state(params, optimizer, study.mesh, parallel),
      step_fn,
      batches,
      steps=section.steps,
      key=jax.random.key(study.seed),
      mesh=study.mesh,
      label=name,
      metrics=writer,
      log_every=section.log_every,
      evaluate=evaluate,
      eval_steps=eval_steps,
      weights=weights,
      frozen=frozen,
      parallel=parallel,
      profile=loop.Profile(study.workdir.profile, profile_steps) if profile_steps else None,
      checkpoint=loop.Checkpointing(
        folder,
        section.checkpoint_every,
        provenance(study, name, section),
        None if section.keep_checkpoints else 2,
      ),
    )
  # of several processes each has parts of the weights; what comes after them computes with whole ones
  return state["params"] if processes.process_count() == 1 else partitioning.fetch(state["params"])


def finetune(
  study,
  name,
  facts,
  section,
  start,
  *,
  ratio=0,
  question_weight=1.0,
  text="whole",
  belief=None,
  fact_weights=None,
  adjustment=0.0,
  order=0,
  evaluate=None,
  profile_steps=0,
):
  """Finetunes the weights `start` on facts, with `ratio` examples of the pretraining task to each question.

  Args:
    section: as config.finetune; its lengths are the most a row may have.
    question_weight: multiplies the questions' loss. text: one of texts.KINDS. belief, fact_weights, adjustment: as in question_source.
    order: another number, another order of the examples. evaluate: function of (step, params), called at eval_steps.
    profile_steps: as in train.
  """
  questions, needs = question_source(
    study, facts, section.prompt, question_weight, belief, fact_weights, adjustment
  )
  section = fit_lengths(
    section, needs, PretrainingConfig.of(study.config.pretrain) if ratio else None
  )
  chosen = study.texts(text) if ratio else []
  return train(
    study,
    name,
    section,
    [questions, *(source for source, _ in chosen)],
    [1.0, *(ratio * share for _, share in chosen)],
    1 + ratio,
    start,
    order,
    evaluate,
    section.eval_steps if evaluate else (),
    profile_steps,
  )


def fit_lengths(
  section: FinetuningConfig, needs: tuple[int, int], text: TrainingConfig | None = None
) -> FinetuningConfig:
  """A section whose lengths are no longer than its examples' `needs` (and the text's section, if any) ask for.

  Lengths come in few sizes (`batching.bucket`), so that arms share compiled steps; config.finetune's are the most.
  """

  lengths = {}
  for name, need in zip(("input_length", "target_length"), needs):
    need = max(need, getattr(text, name) if text else 0)
    lengths[name] = min(getattr(section, name), batching.bucket(need)) if need else 0
  return dataclasses.replace(section, **lengths)


def _row_multiple(study, section):
  """Of what packed rows are a multiple: devices and microbatches share them."""

  return math.lcm(partitioning.batch_shard_count(study.mesh), section.accumulate)


def provenance(study, arm, section=None):
  """What a checkpoint says of itself: its experiment, where its tokenizer and relations stand, and for adapters
  what they stand on."""
  record = {
    "arm": arm,
    "seed": study.seed,
    "workdir": study.workdir.absolute_path,
    "experiment": configs.to_dict(study.config),
  }
  if section and section.adapters:
    record["lora"] = {
      "rank": section.adapters.rank,
      "alpha": section.adapters.alpha,
      "base": _base(study),
    }
  return record


def _base(study):
  """Where the pretrained weights are read from: a checkpoint's folder or a HuggingFace model."""
  if starts_ready(study.config):
    return study.config.start_from
  return os.path.abspath(study.workdir.checkpoints("pretrained", study.seed))


def starts_ready(config):
  """Whether a config's pretrained weights are those of a HuggingFace model, untouched: they are not copied."""

  return (
    bool(config.start_from)
    and config.pretrain.steps == 0
    and not loading.is_checkpoint(config.start_from)
  )
