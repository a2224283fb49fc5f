"""The weights of a study: pretrained, finetuned, random, or those it starts from."""

import jax

from factshock.checkpoints import loading, store, tree_files
from factshock.models import families, lora
from factshock.models.formats import huggingface
from factshock.runtime.errors import UserError
from factshock.study import training
from factshock.training.settings import PretrainingConfig


def pretrained(study):
  """The pretrained weights: trained if need be, from scratch or from config.start_from; else read back."""

  section = PretrainingConfig.of(study.config.pretrain)
  folder = study.workdir.checkpoints("pretrained", study.seed)
  if training.starts_ready(study.config):
    return start_weights(study)
  if store.agreed_latest_step(folder) == section.steps:
    try:
      return store.restore_params(folder)
    except tree_files.Damaged as error:
      store.set_aside(folder, section.steps, error)
  params = start_weights(study) if study.config.start_from else random_params(study)
  params = training.train(study, "pretrained", section, *zip(*study.texts("whole")), 1, params)
  if section.steps == 0:
    store.save(folder, 0, params=params, config=training.provenance(study, "pretrained"))
  return params


def finetuned(study, arm, step=None):
  """The weights of a finetuned arm: its checkpoint's (the newest, or a kept one), or its adapters merged into the pretrained weights."""

  folder = study.workdir.checkpoints(arm, study.seed)
  params = store.restore_params(folder, step)
  record = store.read_manifest(folder, step)["config"]
  if "lora" not in record:
    return params
  return lora.merge(pretrained(study), params, record["lora"]["alpha"] / record["lora"]["rank"])


def random_params(study):
  """Random weights of the study's model, by its seed."""

  return families.of(study.model_config).init(study.model_config, jax.random.key(study.seed))


def start_weights(study):
  """The weights that config.start_from names: a checkpoint of ours, or a HuggingFace folder or hub id.

  Raises:
    UserError: nothing there, or a model of other sizes than config.model (naming each).
  """

  source = study.config.start_from
  if loading.is_checkpoint(source):
    like = jax.eval_shape(
      lambda: families.of(study.model_config).init(study.model_config, jax.random.key(0))
    )
    return store.restore(source, like={"params": like})["params"]
  differing = families.differences(huggingface.config_of(source), study.model_config)
  if differing:
    raise UserError(
      f"config.start_from={source}: is another model than config.model says (there, here):\n  "
      + "\n  ".join(differing)
      + "\n  configs/pretrained.py:PATH takes the sizes from the model"
    )
  return huggingface.load(source, param_dtype=study.model_config.param_dtype)[0]
