"""The kinds of input, and the module with each one's fuzzer (`FUZZERS`, by name)."""

import importlib

from fuzz.frame import Fuzzer

MODULES = {
  "facts": "fuzz.tables",
  "predictions": "fuzz.tables",
  "counts": "fuzz.tables",
  "corpora": "fuzz.texts",
  "huggingface": "fuzz.models",
  "adapters": "fuzz.models",
  "t5x": "fuzz.models",
  "gguf": "fuzz.gguf_files",
  "checkpoints": "fuzz.models",
  "manifests": "fuzz.models",
  "configs": "fuzz.configs",
  "tokenizers": "fuzz.tokens",
  "caches": "fuzz.caches",
}


def fuzzer(name: str) -> Fuzzer:
  """Returns the fuzzer of a kind; imports its module."""
  return importlib.import_module(MODULES[name]).FUZZERS[name]
