"""Opening of a stored model: its weights, config and tokenizer, and what its folder says of it."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any, TypedDict

import jax
import ml_collections

from factshock.checkpoints import belongings, mix_record, store
from factshock.data import decoder_text, pretrained_tokenizers, tokenizers
from factshock.data.pretrained_tokenizers import PretrainedTokenizer
from factshock.devices import host, partitioning
from factshock.models import families, int8, lora, model_config
from factshock.models.formats import huggingface
from factshock.models.formats.gguf import files as gguf_files
from factshock.models.model_config import ModelConfig
from factshock.runtime import answer_dtypes, console
from factshock.runtime.errors import UserError
from factshock.types import Params, Tokenizer

# The settings of a model that comes without an experiment. One device where there is no
# accelerator: each device of a host holds a copy of the weights.
DEFAULTS: dict[str, Any] = {
  "answering": {"batch_size": 64, "top": 10},
  "finetune": {"prompt": "question"},
  "cpu_devices": 1,
}


OPENING = "opening"  # of a checkpoint's record: the ids before each text that it was trained on


@dataclasses.dataclass(frozen=True)
class LoadedModel:
  """Holds a model in memory with all that is needed to ask it.

  Attributes:
    params: its weights.
    model_config: its sizes, a T5Config or a LlamaConfig or one of its classes.
    tokenizer: what turns its text into token ids and back.
    mesh: devices that each batch is shared over (axis "data"); None is the default device.
  """

  params: Params
  model_config: ModelConfig
  tokenizer: Tokenizer
  mesh: jax.sharding.Mesh | None = None

  @property
  def decoder_only(self) -> bool:
    """Returns whether the model has a decoder alone: its answer goes on after the prompt."""
    return families.of(self.model_config).decoder_only

  def with_params(self, params: Params) -> "LoadedModel":
    """Returns the model with other weights."""
    return dataclasses.replace(self, params=params)


@dataclasses.dataclass(frozen=True)
class Origin:
  """Holds what the folder of a model says of it.

  Attributes:
    checkpoint: the path of the checkpoint, or a HuggingFace model's folder or hub id.
    experiment: the config of the experiment that made it, or DEFAULTS; read are its sections
      `answering` and `finetune`.
    record: the checkpoint's record (arm, seed, workdir ...); of a HuggingFace model `arm` alone.
    dtype: what the model was opened to be computed in, one of answer_dtypes.NAMES; None where
      nothing says so.
    own_dtype: what it is computed in where nothing else is asked for.
  """

  checkpoint: str
  experiment: Mapping[str, Any]
  record: Mapping[str, Any]
  dtype: str | None = None
  own_dtype: str | None = None

  @property
  def batch_size(self) -> int:
    """Returns how many prompts are answered at a time."""
    return self.experiment["answering"]["batch_size"]

  @property
  def top(self) -> int | None:
    """Returns how many candidates a row of predictions keeps; None is all."""
    return self.experiment["answering"]["top"] or None

  @property
  def prompt(self) -> str:
    """Returns the form of prompts that the model was finetuned on, such as "question"."""
    return self.experiment["finetune"]["prompt"]

  def stops(self, form: str) -> tuple[str, ...]:
    """Returns the strings that end a decoder-only model's answer to prompts of a form."""
    return stops_of(self.experiment, form)

  @property
  def arm(self) -> str:
    """Returns the name of the arm in predictions files."""
    return self.record.get("arm") or "answers"

  @property
  def seed(self) -> int:
    """Returns the seed of the run that made the model; 0 where there was none."""
    return self.record.get("seed", 0)

  def relations_path(self) -> str:
    """Returns the relations file of the workdir that the checkpoint names.

    Raises:
      UserError: there is none.
    """
    return belongings.path_of(self.checkpoint, self.record, "relations")


class Identity(TypedDict):
  """Holds the digest of a model's weights and how they were mixed, None where nothing says so."""

  checkpoint: str | None
  mixing_weights: list[float] | None


def open_model(
  checkpoint: str,
  config: ml_collections.ConfigDict | None = None,
  tokenizer: str | None = None,
  dtype: str | None = None,
) -> tuple[LoadedModel, Origin]:
  """Opens a checkpoint of ours, a HuggingFace folder or hub id, or a GGUF file.

  Args:
    checkpoint: its path, or "org/name", "org/name@revision".
    config: the experiment's config; None is that of the checkpoint's record, or DEFAULTS. The mesh
      is cut as a config that is given says; else every device holds all weights.
    tokenizer: folder of the tokenizer; None is the checkpoint's own.
    dtype: of the computation; None is that of the config, or of a pretrained model's own files, on
      a CPU float32. "int8" is that with weights and rows of matrix products as 8 bits.

  Raises:
    UserError: nothing there, or something that does not fit the config or the tokenizer.
  """
  if dtype != answer_dtypes.INT8:
    return _open(checkpoint, config, tokenizer, dtype)
  model, origin = _open(checkpoint, config, tokenizer, None)
  origin = dataclasses.replace(origin, dtype=dtype)
  return model.with_params(int8.quantised(model.params)), origin


def _open(
  checkpoint: str,
  config: ml_collections.ConfigDict | None,
  tokenizer: str | None,
  dtype: str | None,
) -> tuple[LoadedModel, Origin]:
  """Opens what `open_model` does, with weights as numbers of a dtype."""
  host.use_compilation_cache()
  own = belongings.is_checkpoint(checkpoint)
  record = read_record(checkpoint) if own else {}
  given = config.to_dict() if config is not None else {}
  experiment = given or record.get("experiment") or DEFAULTS
  partitioning.use_cpu_devices(experiment["cpu_devices"])
  mesh = partitioning.make_mesh(given.get("mesh"))
  platform = mesh.devices.flat[0].platform
  if own:
    model = _open_checkpoint(checkpoint, experiment, record, tokenizer, platform)
    own_dtype = model.model_config.dtype
  else:
    configured = given.get("model", {}).get("dtype", model_config.AUTO)
    own_dtype = _dtype_of_pretrained(checkpoint, configured, platform)
    model = _open_pretrained(checkpoint, tokenizer, dtype or configured, platform)
    _check_same_model(model, given, platform)
    name = os.path.basename(os.path.normpath(checkpoint))
    record = {"arm": name.removesuffix(gguf_files.ENDING)}
  if dtype is not None:
    computed = dataclasses.replace(model.model_config, dtype=dtype)
    model = dataclasses.replace(model, model_config=computed)
  origin = Origin(checkpoint, experiment, record, str(model.model_config.dtype), str(own_dtype))
  return dataclasses.replace(model, mesh=mesh), origin


def _check_same_model(
  model: LoadedModel,
  experiment: Mapping[str, Any],
  platform: str,
) -> None:
  """Checks that a config which is given is of the model that was opened.

  Raises:
    UserError: it is of another family or size, and names each.
  """
  if not experiment.get("model"):
    return
  named = families.from_section(experiment["model"], model.tokenizer.size, platform)
  differing = families.differences(model.model_config, named)
  if differing:
    raise UserError(
      "--config: config.model is another model than the checkpoint (there, here):\n  "
      + "\n  ".join(differing)
      + "\n  leave --config out: a pretrained model says its sizes itself"
    )


def is_pretrained(experiment: Mapping[str, Any]) -> bool:
  """Returns whether the weights of an experiment began as those of other people's model.

  Not so where the experiment made them from nothing, or started from a checkpoint of one that did.
  """
  start = experiment.get("start_from")
  if start and os.path.isdir(start) and belongings.is_checkpoint(start):
    return _is_checkpoint_pretrained(start)
  return start != ""


@functools.cache
def _is_checkpoint_pretrained(checkpoint: str) -> bool:
  return is_pretrained(read_record(checkpoint).get("experiment") or {})


def stops_of(experiment: Mapping[str, Any], form: str) -> tuple[str, ...]:
  """Returns the strings that end a decoder-only model's answer, as an experiment says.

  What any of its arms is taught as an end is among them.

  Args:
    experiment: its config, or DEFAULTS.
    form: of the prompts, such as "cloze".
  """
  stops = tuple(experiment["answering"].get("stop") or ())
  stops = stops or decoder_text.stops_of(form, pretrained=is_pretrained(experiment))
  arms: Mapping[str, Mapping[str, Any]] = experiment.get("arms") or {}
  for section in (experiment["finetune"], *arms.values()):
    end = section.get("end", "auto") if isinstance(section, Mapping) else "auto"
    if end not in (*decoder_text.ENDS, *stops):
      stops = (*stops, end)
  return stops


def read_record(checkpoint: str) -> Mapping[str, Any]:
  """Returns the record of a checkpoint: arm, seed, workdir, experiment; {} where it has none."""
  return store.read_manifest(checkpoint)["config"] or {}


def relations_path(checkpoint: str) -> str:
  """Returns the relations file of a checkpoint's workdir.

  Raises:
    UserError: there is none, as of a HuggingFace model.
  """
  if not belongings.is_checkpoint(checkpoint):
    raise UserError(f"{checkpoint}: brings no templates of relations; say --relations=PATH")
  return belongings.path_of(checkpoint, read_record(checkpoint), "relations")


def identity_of(checkpoint: str) -> Identity:
  """Returns what tells a model from others, as its folder says: see Identity."""
  own = belongings.is_checkpoint(checkpoint)
  folder = store.step_folder(checkpoint) if own else checkpoint
  mix: Mapping[str, Any] = {}
  if os.path.exists(os.path.join(folder, mix_record.NAME)):
    mix = mix_record.read(folder)
  digest = belongings.model_digest(folder) if own else mix.get("digest")
  if own and mix.get("digest", digest) != digest:
    raise UserError(
      f"{folder}: {mix_record.NAME} is of another checkpoint; restore it from a copy or remove it"
    )
  return {"checkpoint": digest, "mixing_weights": mix.get("weights") or mix.get("layerwise")}


def _open_checkpoint(
  checkpoint: str,
  experiment: Mapping[str, Any],
  record: Mapping[str, Any],
  tokenizer_path: str | None,
  platform: str,
) -> LoadedModel:
  tokenizer_path = tokenizer_path or belongings.path_of(checkpoint, record, "tokenizer")
  tokenizer = _as_read(tokenizers.load(tokenizer_path), record)
  config = families.from_section(experiment["model"], tokenizer.size, platform)
  if "lora" in record:
    return LoadedModel(_with_adapters(checkpoint, record), config, tokenizer)
  family = families.of(config)
  like = jax.eval_shape(lambda: family.init(config, jax.random.key(0)))
  params = store.restore(checkpoint, like={"params": like})["params"]
  return LoadedModel(params, config, tokenizer)


def _as_read(tokenizer: Tokenizer, record: Mapping[str, Any]) -> Tokenizer:
  """Returns a tokenizer that puts before a text what it did when the checkpoint was trained.

  A BOS was once put there whenever there is one; checkpoints of that time say nothing of it.
  """
  if not isinstance(tokenizer, PretrainedTokenizer) or "arm" not in record:
    return tokenizer
  before = [] if tokenizer.bos is None else [tokenizer.bos]
  return dataclasses.replace(tokenizer, opening=tuple(record.get(OPENING, before)))


def _with_adapters(checkpoint: str, record: Mapping[str, Any]) -> Params:
  """Returns the weights that a checkpoint's adapters stand on, with the adapters attached."""
  section = record["lora"]
  base = belongings.base_of(checkpoint, record)
  if belongings.is_checkpoint(base):
    params = store.restore_params(base)
  else:
    dtype = record["experiment"]["model"]["param_dtype"]
    params, _ = huggingface.load(base, param_dtype=dtype)
  scale = section["alpha"] / section["rank"]
  return lora.attach(params, store.restore_params(checkpoint), scale)


def _open_pretrained(
  source: str,
  tokenizer_path: str | None,
  dtype: str,
  platform: str,
) -> LoadedModel:
  """Opens a HuggingFace model, to compute in a dtype; "auto" is its own, but float32 on a CPU."""
  config = huggingface.config_of(source)  # first of all: is there a model that can be read?
  tokenizer = pretrained_tokenizers.load(tokenizer_path or source)
  pretrained_tokenizers.check_fits(tokenizer, config.vocab_size, source)
  if not families.of(config).decoder_only:
    pretrained_tokenizers.check_has_sentinels(tokenizer, tokenizer_path or source)
  computed = _dtype_of_pretrained(source, dtype, platform)
  if dtype == model_config.AUTO and computed != config.dtype:
    console.say_once(f"{source}: computed in float32, as a CPU is faster at it than at bfloat16")
    dtype = computed
  params, config = huggingface.load(source, dtype=None if dtype == model_config.AUTO else dtype)
  return LoadedModel(params, config, tokenizer)


def _dtype_of_pretrained(
  source: str,
  dtype: str,
  platform: str,
) -> str:
  """Returns what a dtype stands for: "auto" is the model's own, but float32 on a CPU."""
  if dtype != model_config.AUTO:
    return dtype
  return "float32" if platform == "cpu" else str(huggingface.config_of(source).dtype)
