"""Fuzzer of GGUF files, whose tensors must be those that package gguf reads of the same bytes."""

import pathlib
import random
from typing import Any

import gguf
import gguf_models
import numpy as np

from factshock.data import pretrained_tokenizers
from factshock.models.formats import huggingface
from factshock.models.formats.gguf import models
from factshock.runtime.errors import UserError
from fuzz import mutations
from fuzz.frame import Case, Fuzzer, Make

SIZES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}


def files(folder: pathlib.Path) -> Make:
  """Returns the maker of changed files: of a head mostly, of any bytes, cut off."""
  plain = gguf_models.random_model("llama", **SIZES)
  gguf_models.write_model(folder / "plain.gguf", "llama", plain)
  quantized = {}
  for name, array in gguf_models.tensors_of("llama", plain).items():
    if array.ndim == 2:
      kind = gguf.GGMLQuantizationType.Q4_0
      quantized[name] = (gguf.quants.quantize(array, kind), kind)
  gguf_models.write_model(folder / "quantized.gguf", "llama", plain, quantized=quantized)
  gguf_models.write_model(folder / "qwen3.gguf", "qwen3", gguf_models.random_model("qwen3"))
  gguf_models.write_model(folder / "t5.gguf", "t5", gguf_models.random_model("t5"))

  def make(rng: random.Random, own: pathlib.Path) -> Case:
    source = rng.choice(sorted(folder.iterdir()))
    content = source.read_bytes()
    path = own / "model.gguf"
    path.write_bytes(_changed(rng, content))
    return Case(lambda: _read(path), lambda got: _wrong(path, got))

  return make


def _changed(rng: random.Random, content: bytes) -> bytes:
  """Returns a file's bytes, changed."""
  kind = rng.random()
  if kind < 0.15:
    return content[: rng.randint(0, len(content))]
  if kind < 0.3:
    return mutations.changed_bytes(rng, content)
  head = content.index(b"token_embd.weight") + 2000
  if kind < 0.6:
    head = min(head, 1500)  # the metadata of sizes
  data = bytearray(content)
  for _ in range(rng.randint(1, 3)):
    at = rng.randrange(head)
    data[at] = rng.choice((data[at] ^ 1 << rng.randrange(8), rng.randrange(256), 0, 255))
  return bytes(data)


def _read(path: pathlib.Path) -> tuple[Any, dict[str, np.ndarray]]:
  """Returns the config and the tensors, having read the tokenizer too."""
  source = huggingface.open_source(path)
  if source.config.vocab_size == source.json["vocab_size"]:
    try:
      pretrained_tokenizers.load(path).encode("the 12 </s>")
    except UserError as error:
      if len(str(error)) > 5000:
        raise
  return source.config, {name: tensor.read() for name, tensor in source.tensors.items()}


def _wrong(path: pathlib.Path, got: tuple[Any, dict[str, np.ndarray]]) -> str | None:
  """Returns what is wrong with what was read; whatever is read has checked counts, so this ends."""
  try:
    reader = gguf.GGUFReader(path)
  except Exception as error:  # noqa: BLE001 - the other reader refuses the file
    return None if "Duplicate" not in str(error) else f"read, where others say {error}"
  numbers = {}
  for tensor in reader.tensors:
    array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    numbers[tensor.name] = np.sort(np.asarray(array, np.float32).reshape(-1))
  _, tensors = got
  _, named = models.open_model(path)
  for name, stored in models.files.read(path).tensors.items():
    ours = np.sort(stored.read().astype(np.float32).reshape(-1))
    if not np.array_equal(ours, numbers[name], equal_nan=True):
      return f"{name}: other numbers"
  missing = tensors.keys() - named.keys()
  return f"tensors that are not there: {sorted(missing)}" if missing else None


FUZZERS: dict[str, Fuzzer] = {"gguf": files}
