"""Models and adapters in the HuggingFace format: config.json and safetensors, in and out.

`config_of` and `load` read a folder or a model on the hub, `save` writes a folder that transformers
loads; all go one tensor at a time.
"""

from factshock.models.formats.huggingface.adapters import Adapters
from factshock.models.formats.huggingface.adapters import write as write_adapters
from factshock.models.formats.huggingface.configs import from_json, is_part, read_json, to_json
from factshock.models.formats.huggingface.reading import (
  Source,
  config_of,
  is_source,
  load,
  open_source,
)
from factshock.models.formats.huggingface.writing import save, write_folder

__all__ = [
  "Adapters",
  "Source",
  "config_of",
  "from_json",
  "is_part",
  "is_source",
  "load",
  "open_source",
  "read_json",
  "save",
  "to_json",
  "write_adapters",
  "write_folder",
]
