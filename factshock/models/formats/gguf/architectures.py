"""Architectures of GGUF files: their metadata as the config.json of a HuggingFace model.

What the metadata leave open is what llama.cpp takes for granted (its src/llama-model.cpp).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from factshock.models.formats.gguf import names
from factshock.models.formats.gguf.files import GgufFile
from factshock.models.formats.gguf.names import Naming
from factshock.runtime.errors import UserError

Json: TypeAlias = dict[str, Any]

_GEMMA2_27B_LAYERS = 46  # whose queries are scaled by the width of a head of the whole model,
_GEMMA3_27B_LAYERS = 62  # as here; the smaller ones' by the width of a head
_GEMMA_PATTERN = {"gemma2": 2, "gemma3": 6}  # every so manieth layer sees everything
_SMOLLM3_PATTERN = 4  # every so manieth layer knows no positions
_LOCAL_THETA = 10000.0

# Keys that say nothing of what is computed, or are read elsewhere.
_OTHER_KEYS = frozenset(
  (
    "attention.causal",
    "attention.value_length",
    "context_length",
    "decoder_start_token_id",
    "pooling_type",
    "rope.dimension_count",
    "tensor_data_layout",
  )
)
# Values that leave a model as it is.
_NEUTRAL = (0, 0.0, 1.0, False, "", "none", "Meta AI original pth")


class Metadata:
  """Gives the metadata of a file that begin with the name of its architecture."""

  def __init__(self, file: GgufFile) -> None:
    self.file = file
    self.architecture = str(file.metadata.get("general.architecture", ""))
    self._read: set[str] = set()

  def get(self, key: str, default: Any = None) -> Any:
    """Returns a value: of an array, which has one for each layer, the one of all layers.

    Raises:
      UserError: layers differ in it.
    """
    self._read.add(key)
    value = self.file.metadata.get(f"{self.architecture}.{key}", default)
    if isinstance(value, np.ndarray):
      if len(set(value.tolist())) != 1:
        raise UserError(
          f"{self.file.path}: {self.architecture}.{key} differs from layer to layer, which is not "
          "supported; take a model whose layers are alike"
        )
      value = value.tolist()[0]
    return _shortest(value) if isinstance(value, float) else value

  def by_layer(self, key: str) -> Any:
    """Returns a value as it is in the file; of an array as a list, one value for each layer."""
    self._read.add(key)
    value = self.file.metadata.get(f"{self.architecture}.{key}")
    return value.tolist() if isinstance(value, np.ndarray) else value

  def need(self, key: str) -> Any:
    """Returns a value; UserError where there is none."""
    value = self.get(key)
    if value is None:
      raise UserError(
        f"{self.file.path}: expected a value for {self.architecture}.{key} in its metadata, got "
        "none; convert the model again"
      )
    return value

  def whole(self, key: str) -> int:
    """Returns a whole number from 1; UserError where there is none."""
    value = self.need(key)
    if type(value) is not int or value < 1:
      raise UserError(
        f"{self.file.path}: expected a whole number from 1 as {self.architecture}.{key}, got "
        f"{value!r:.60}; convert the model again"
      )
    return value

  def layers(self) -> int:
    """Returns how many layers there are; UserError where the file has fewer tensors."""
    layers = self.whole("block_count")
    if layers > len(self.file.tensors):
      raise UserError(
        f"{self.file.path}: holds {len(self.file.tensors):,} tensors, too few for the {layers:,} "
        f"layers of {self.architecture}.block_count; copy it again"
      )
    return layers

  def check_all_read(self) -> None:
    """Raises a UserError where a value has to do with the model and nobody asked for it."""
    prefix = f"{self.architecture}."
    known = self._read | _OTHER_KEYS
    for name, value in self.file.metadata.items():
      key = name.removeprefix(prefix)
      if key == name or key in known:
        continue
      if isinstance(value, np.ndarray | list) or value not in _NEUTRAL:
        raise UserError(
          f"{self.file.path}: {name}={value!r:.60} is not supported; take a model without it"
        )

  @property
  def vocab_size(self) -> int:
    """Returns how many tokens the model has."""
    stated = self.get("vocab_size")
    if stated is not None:
      return stated
    tokens = self.file.metadata.get("tokenizer.ggml.tokens", ())
    return len(tokens)

  def has(self, name: str) -> bool:
    """Returns whether the file has a tensor."""
    return name in self.file.tensors


@dataclasses.dataclass(frozen=True)
class Architecture:
  """Says how the files of an architecture are read.

  Attributes:
    config: metadata -> the config.json.
    naming: of its tensors.
  """

  config: Callable[[Metadata], Json]
  naming: Naming


def _shortest(value: float) -> float:
  """Returns the shortest decimal that float32 rounds to a value, as people wrote it: 1e-05."""
  return float(str(np.float32(value))) if math.isfinite(value) else value


def _decoder(metadata: Metadata) -> Json:
  """Returns what the config.json of all decoders have."""
  if not metadata.get("attention.causal", True):
    raise UserError(
      f"{metadata.file.path}: {metadata.architecture}.attention.causal=False is not supported: "
      "such a model sees what comes after, and answers nothing"
    )
  heads = metadata.whole("attention.head_count")
  width = metadata.whole("embedding_length")
  values = {
    "vocab_size": metadata.vocab_size,
    "hidden_size": width,
    "intermediate_size": metadata.whole("feed_forward_length"),
    "num_hidden_layers": metadata.layers(),
    "num_attention_heads": heads,
    "num_key_value_heads": metadata.get("attention.head_count_kv", heads),
    "head_dim": metadata.get("attention.key_length", width // heads),
    "max_position_embeddings": metadata.whole("context_length"),
    "rms_norm_eps": metadata.need("attention.layer_norm_rms_epsilon"),
    "rope_theta": metadata.get("rope.freq_base", 10000.0),
    "tie_word_embeddings": not metadata.has("output.weight"),
    "hidden_act": "silu",
  }
  _check_whole_heads(metadata, values["head_dim"])
  scaling = _rope_scaling(metadata)
  return values | ({"rope_scaling": scaling} if scaling else {})


def _check_whole_heads(metadata: Metadata, head_dim: int) -> None:
  """Raises a UserError where positions turn a part of each head, or values have other sizes."""
  for key in ("rope.dimension_count", "attention.value_length"):
    size = metadata.get(key, head_dim)
    if size != head_dim:
      raise UserError(
        f"{metadata.file.path}: {metadata.architecture}.{key}={size!r:.60} is not supported; "
        f"supported is the size of a head, {head_dim!r:.60}"
      )


def _rope_scaling(metadata: Metadata) -> Json | None:
  """Returns how positions are scaled, as config.json says it; None where they are not."""
  kind = metadata.get("rope.scaling.type", "none")
  factor = metadata.get("rope.scaling.factor", metadata.get("rope.scale_linear", 1.0))
  for key in ("rope.scaling.original_context_length", "rope.scaling.finetuned"):
    metadata.get(key)
  if kind not in ("none", "linear"):
    return {"rope_type": kind, "factor": factor}
  return {"rope_type": "linear", "factor": factor} if factor not in (1.0, 0.0) else None


def _llama(metadata: Metadata) -> Json:
  """Returns the config.json of a Llama; of a Mistral where the file names a window.

  llama.cpp has one architecture for both, and for SmolLM 1 and 2.
  """
  values = _decoder(metadata)
  window = metadata.get("attention.sliding_window")
  values["attention_bias"] = metadata.has("blk.0.attn_q.bias")
  if metadata.has("rope_freqs.weight"):
    values |= _llama3_rope(metadata, values)
  if window:
    del values["attention_bias"]
    return _named("mistral", "MistralForCausalLM", values) | {"sliding_window": window}
  return _named("llama", "LlamaForCausalLM", values) | {"mlp_bias": False}


def _llama3_rope(metadata: Metadata, values: Json) -> Json:
  """Returns Llama 3's scaling of positions, which the file holds as a factor of each wavelength.

  The numbers it came of are not in the file. All published models have the same but for the factor,
  and it is checked that they give what is in the file.

  Raises:
    UserError: they do not.
  """
  factors = metadata.file.tensors["rope_freqs.weight"].read().astype(np.float32)
  if (factors == 1).all():
    return {}
  scaling = {
    "factor": _shortest(float(factors.max())),
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
  }
  expected = _llama3_factors(values["rope_theta"], values["head_dim"], scaling)
  if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-4):
    raise UserError(
      f"{metadata.file.path}: rope_freqs.weight holds factors of wavelengths that are not Llama "
      "3's, which is not supported; supported are those of Llama 3.1 to 3.3"
    )
  return {"rope_scaling": {"rope_type": "llama3", **scaling}}


def _llama3_factors(theta: float, head_dim: int, scaling: Mapping[str, Any]) -> np.ndarray:
  """Returns by what Llama 3 multiplies each wavelength, float32 [head_dim / 2]."""
  wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
  low = scaling["low_freq_factor"]
  high = scaling["high_freq_factor"]
  turns = scaling["original_max_position_embeddings"] / wavelengths
  smooth = np.clip((turns - low) / (high - low), 0, 1)
  return (1 / ((1 - smooth) / scaling["factor"] + smooth)).astype(np.float32)


def _qwen2(metadata: Metadata) -> Json:
  """Returns the config.json of a Qwen 2 or 2.5."""
  values = _named("qwen2", "Qwen2ForCausalLM", _decoder(metadata))
  return values | {"use_sliding_window": False}


def _qwen3(metadata: Metadata) -> Json:
  """Returns the config.json of a Qwen 3."""
  values = _named("qwen3", "Qwen3ForCausalLM", _decoder(metadata))
  return values | {"use_sliding_window": False, "attention_bias": False}


def _smollm3(metadata: Metadata) -> Json:
  """Returns the config.json of a SmolLM3."""
  values = _named("smollm3", "SmolLM3ForCausalLM", _decoder(metadata))
  layers = range(1, values["num_hidden_layers"] + 1)
  return values | {
    "no_rope_layer_interval": _SMOLLM3_PATTERN,
    "no_rope_layers": [int(layer % _SMOLLM3_PATTERN != 0) for layer in layers],
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
  }


def _olmo2(metadata: Metadata) -> Json:
  """Returns the config.json of an OLMo 2."""
  values = _named("olmo2", "Olmo2ForCausalLM", _decoder(metadata))
  return values | {"attention_bias": False}


def _gemma(metadata: Metadata) -> Json:
  """Returns what the config.json of Gemma 2 and 3 have."""
  values = _decoder(metadata)
  layers = values["num_hidden_layers"]
  of_whole = layers in (_GEMMA2_27B_LAYERS, _GEMMA3_27B_LAYERS)
  of_head = values["hidden_size"] // values["num_attention_heads"]
  del values["hidden_act"]
  return values | {
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "query_pre_attn_scalar": of_head if of_whole else values["head_dim"],
    "sliding_window": metadata.whole("attention.sliding_window"),
    "layer_types": _layer_types(metadata, layers),
  }


def _layer_types(metadata: Metadata, layers: int) -> list[str]:
  """Returns which kind of attention each layer of a Gemma has."""
  stated = metadata.by_layer("attention.sliding_window_pattern")
  if isinstance(stated, list):
    sliding = [bool(value) for value in stated]
  else:
    pattern = stated or _GEMMA_PATTERN[metadata.architecture]
    sliding = [layer % pattern != 0 for layer in range(1, layers + 1)]
  return ["sliding_attention" if is_sliding else "full_attention" for is_sliding in sliding]


def _gemma2(metadata: Metadata) -> Json:
  """Returns the config.json of a Gemma 2."""
  values = _named("gemma2", "Gemma2ForCausalLM", _gemma(metadata))
  return values | {
    "attn_logit_softcapping": metadata.get("attn_logit_softcapping", 50.0),
    "final_logit_softcapping": metadata.get("final_logit_softcapping", 30.0),
  }


def _gemma3(metadata: Metadata) -> Json:
  """Returns the config.json of a Gemma 3 without its eyes."""
  values = _named("gemma3_text", "Gemma3ForCausalLM", _gemma(metadata))
  return values | {
    "rope_theta": metadata.get("rope.freq_base", 1e6),
    "rope_local_base_freq": metadata.get("rope.freq_base_swa", _LOCAL_THETA),
    "final_logit_softcapping": metadata.get("final_logit_softcapping"),
    "attn_logit_softcapping": None,
  }


def _t5(metadata: Metadata) -> Json:
  """Returns the config.json of a T5, or of a UMT5, which has a relative bias in every layer."""
  gated = metadata.has("enc.blk.0.ffn_gate.weight")
  layers = metadata.layers()
  tied = not metadata.has("output.weight")
  values = {
    "vocab_size": metadata.vocab_size,
    "d_model": metadata.whole("embedding_length"),
    "d_ff": metadata.whole("feed_forward_length"),
    "d_kv": metadata.whole("attention.key_length"),
    "num_heads": metadata.whole("attention.head_count"),
    "num_layers": layers,
    "num_decoder_layers": metadata.get("decoder_block_count", layers),
    "relative_attention_num_buckets": metadata.get("attention.relative_buckets_count", 32),
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": metadata.get(
      "attention.layer_norm_rms_epsilon", metadata.get("attention.layer_norm_epsilon", 1e-6)
    ),
    "feed_forward_proj": "gated-gelu" if gated else "relu",
    "tie_word_embeddings": tied,
    "dropout_rate": 0.1,
    "is_encoder_decoder": True,
    "decoder_start_token_id": metadata.get("decoder_start_token_id", 0),
  }
  for key in ("attention.head_count_kv", "attention.layer_norm_epsilon"):
    metadata.get(key)
  if metadata.has("enc.blk.1.attn_rel_b.weight"):
    return _named("umt5", "UMT5ForConditionalGeneration", values)
  return _named("t5", "T5ForConditionalGeneration", values)


def _named(model_type: str, model_class: str, values: Json) -> Json:
  return {"model_type": model_type, "architectures": [model_class], **values}


KNOWN: dict[str, Architecture] = {
  "gemma2": Architecture(_gemma2, names.GEMMA),
  "gemma3": Architecture(_gemma3, names.GEMMA),
  "llama": Architecture(_llama, names.LLAMA),
  "olmo2": Architecture(_olmo2, names.OLMO2),
  "qwen2": Architecture(_qwen2, names.QWEN),
  "qwen3": Architecture(_qwen3, names.QWEN),
  "smollm3": Architecture(_smollm3, names.LLAMA),
  "t5": Architecture(_t5, names.T5),
}


def of(file: GgufFile) -> Architecture:
  """Returns the architecture of a file.

  Raises:
    UserError: it is not supported, or the file holds no model; says what is supported.
  """
  name = file.metadata.get("general.architecture")
  kind = file.metadata.get("general.type", "model")
  if kind != "model":
    raise UserError(
      f"{file.path}: holds no model but {kind!r:.60} (general.type); give the model's own .gguf"
    )
  if name not in KNOWN:
    raise UserError(
      f"{file.path}: the architecture {name!r:.60} is not supported; supported are "
      f"{', '.join(KNOWN)}"
    )
  return KNOWN[name]
