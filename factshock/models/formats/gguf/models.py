"""A GGUF file as a HuggingFace model: its config.json, and its tensors by HuggingFace's names."""

from typing import Any

from factshock.models.formats.gguf import architectures, ends, files, names
from factshock.models.formats.gguf.architectures import Metadata
from factshock.models.formats.gguf.files import GgufFile
from factshock.models.formats.gguf.tensors import Quantized
from factshock.types import FilePath

# The dtype of config.json by the type of most of the bytes; what is quantized computes in float32.
_DTYPES = {"BF16": "bfloat16", "F16": "float16"}


def read_json(path: FilePath) -> dict[str, Any]:
  """Returns the config.json of a file.

  Raises:
    UserError: an architecture or a variant that is not supported; what `files.read` raises.
  """
  return _json(files.read(path))


def open_model(path: FilePath) -> tuple[dict[str, Any], dict[str, Quantized]]:
  """Returns the config.json of a file, and its tensors by HuggingFace's names."""
  file = files.read(path)
  values = _json(file)
  heads = {
    "attn_q": values.get("num_attention_heads", 0),
    "attn_k": values.get("num_key_value_heads", 0),
  }
  naming = architectures.of(file).naming
  return values, names.renamed(file.tensors, naming, heads)


def _json(file: GgufFile) -> dict[str, Any]:
  architecture = architectures.of(file)
  metadata = Metadata(file)
  values = architecture.config(metadata)
  metadata.check_all_read()
  return values | ends.of(file.metadata, file.path) | {"dtype": _dtype(file)}


def _dtype(file: GgufFile) -> str:
  """Returns the dtype that most of a file's bytes are stored in, float32 where quantized."""
  sizes: dict[str, int] = {}
  for tensor in file.tensors.values():
    sizes[tensor.kind.name] = sizes.get(tensor.kind.name, 0) + tensor.nbytes
  largest = max(sizes, key=lambda name: sizes[name], default="")
  return _DTYPES.get(largest, "float32")
