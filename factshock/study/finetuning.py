"""One model finetuned on all facts of a file, outside of a study: what the train verb does."""

import functools
import tempfile

import jax
import numpy as np

from factshock.checkpoints import store, tree_files
from factshock.devices import host, partitioning
from factshock.facts import splits
from factshock.models import families, lora
from factshock.runtime import interruption, processes, provenance
from factshock.runtime.errors import UserError
from factshock.runtime.workdir import Workdir
from factshock.study import arms, ownership, seed_run, study_data, training, weights
from factshock.study import config as configs
from factshock.training import dry_run as planning
from factshock.training import train_step as steps
from factshock.training.settings import FinetuningConfig

NAME = "finetuned"


def run(config, workdir, *, seed=0, ratio=0.0, profile_steps=0):
  """Finetunes the model of a config on all of config.facts; goes on where it was interrupted.

  Args:
    ratio: examples of the pretraining task on config.corpus mixed in with each question.
    profile_steps: of how many steps a trace is written to WORKDIR/profile.

  Returns:
    The folder of the checkpoint.

  Raises:
    UserError: a config that cannot be used, or a workdir of something else.
    interruption.Interrupted: SIGTERM or Ctrl-C came; what was done is kept.
  """

  check(config, ratio)
  workdir = Workdir.of(workdir)
  ownership.claim(config, workdir)
  host.keep_freed_memory()
  host.use_compilation_cache()
  partitioning.use_cpu_devices(config.cpu_devices)
  mesh = partitioning.make_mesh(config.mesh.to_dict())
  provenance.append_run(workdir.runs, {**provenance.describe_run(), "seed": seed, "ratio": ratio})
  folder = workdir.checkpoints(NAME, seed)
  if store.agreed_latest_step(folder) == config.finetune.steps:
    print(f"{folder}: finished before, nothing to do; choose another --workdir to train anew")
    return folder
  with processes.first_process_first("facts and text"):
    data = study_data.load(config, workdir, seed)
    study = seed_run.assemble(config, workdir, seed, mesh, data, {"pool": data.facts})
  print("  " + splits.describe("facts", data.facts), flush=True)
  with interruption.signals_caught():
    training.finetune(
      study,
      NAME,
      data.facts,
      FinetuningConfig.of(config.finetune),
      weights.pretrained(study),
      ratio=ratio,
      profile_steps=profile_steps,
    )
  return folder


def reproducible(config, *, seed=0, ratio=0.0, steps=20):
  """Trains the first steps twice from the start weights and compares all bits; nothing is written.

  Returns:
    Names of the weights in which the two differ: none where training is reproducible.
  """

  check(config, ratio)
  partitioning.use_cpu_devices(config.cpu_devices)
  mesh = partitioning.make_mesh(config.mesh.to_dict())
  section = FinetuningConfig.of(config.finetune).with_steps(steps)
  found = []
  for _ in range(2):
    with tempfile.TemporaryDirectory() as folder:
      workdir = Workdir(folder)
      data = study_data.load(config, workdir, seed)
      study = seed_run.assemble(config, workdir, seed, mesh, data, {"pool": data.facts})
      start = weights.start_weights(study) if config.start_from else weights.random_params(study)
      trained = training.finetune(study, NAME, data.facts, section, start, ratio=ratio)
      found.append(
        {name: np.asarray(leaf) for name, leaf in tree_files.flat_leaves(trained).items()}
      )
  return [name for name, leaf in found[0].items() if leaf.tobytes() != found[1][name].tobytes()]


def check(config, ratio):
  """Checks a config for training alone: its arms do not count. Raises: UserError naming every problem."""
  configs.check(config, {name: kind.schema for name, kind in arms.KINDS.items()})
  if ratio and config.facts != "world" and not config.corpus:
    raise UserError(f"--ratio={ratio:g} needs config.corpus=PATH, the text of the pretraining task")


def dry_run(config, ratio=0.0):
  """Lines that say what the training of a config will take; reads no facts and allocates no model.

  Raises:
    UserError: a config that cannot be used, or one that leaves the vocabulary to a tokenizer.
  """

  check(config, ratio)
  if not config.model.vocab_size:
    raise UserError(
      "config.model.vocab_size: a dry run needs the number of tokens, got 0 (the tokenizer's); give it"
    )
  partitioning.use_cpu_devices(config.cpu_devices)
  mesh = partitioning.make_mesh(config.mesh.to_dict())
  section = FinetuningConfig.of(config.finetune)
  model = families.from_section(config.model.to_dict(), 0)
  adapters = section.adapters
  scale = adapters.scale if adapters else None
  step_fn, optimizer = training.train_step(model, section.optimizer, section.accumulate, scale)
  params = jax.eval_shape(functools.partial(families.of(model).init, model), jax.random.key(0))
  frozen = None
  if adapters:
    frozen = params
    params = jax.eval_shape(
      functools.partial(lora.init, rank=adapters.rank, targets=adapters.targets),
      params,
      jax.random.key(0),
    )
  state = jax.eval_shape(functools.partial(steps.init_state, optimizer=optimizer), params)
  rows = round(section.batch_size * (1 + ratio))
  batch = _batch_shapes(model, rows, section.input_length, section.target_length, section.pack, np)
  return [
    f"{config.model.family}: {rows:,} rows of {section.input_length} + {section.target_length} tokens a step, "
    f"{section.steps:,} steps",
    *planning.describe(step_fn, state, batch, mesh, frozen),
  ]


def _batch_shapes(model, rows, input_length, target_length, pack, np):
  if not families.of(model).decoder_only:
    batch = {
      "inputs": np.zeros((rows, input_length), np.int32),
      "targets": np.zeros((rows, target_length), np.int32),
      "weights": np.zeros((rows, target_length), np.float32),
    }
    names = {"input_segments": "inputs", "target_segments": "targets"}
  else:
    length = input_length + target_length
    batch = {
      "tokens": np.zeros((rows, length), np.int32),
      "weights": np.zeros((rows, length), np.float32),
    }
    names = {"segments": "tokens"}
  return batch | ({segments: batch[of] for segments, of in names.items()} if pack else {})
