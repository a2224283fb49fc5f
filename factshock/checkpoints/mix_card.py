"""The model card of a mix."""

import os
from collections.abc import Sequence

from factshock.checkpoints import mix_record, model_card, origins, recorded_models
from factshock.checkpoints.manifest import Manifest
from factshock.checkpoints.mix_record import MixRecord
from factshock.models.formats import huggingface
from factshock.models.formats.huggingface import writing
from factshock.models.model_config import ModelConfig
from factshock.runtime.errors import UserError
from factshock.types import FilePath


def write(
  folders: Sequence[str],
  manifest: Manifest,
  output: FilePath,
  path: str,
) -> None:
  """Writes the card of a mix of our checkpoints.

  Args:
    folders: of the steps that were mixed.
    manifest: the first one's.
    output: the folder of the mix, which the card is called by.
    path: to write, beside the mix.json that says how they were mixed.
  """
  record = mix_record.read(os.path.dirname(path))
  try:
    config = recorded_models.config_of(folders[0], manifest)
  except UserError:  # arrays of no model are mixed, too
    config = None
  writing.write_text(path, text_of(folders, config, output, record))


def text_of(
  paths: Sequence[FilePath],
  config: ModelConfig | None,
  output: FilePath,
  record: MixRecord,
) -> str:
  """Returns the card of a mix.

  Args:
    paths: of what was mixed.
    config: its sizes; None where they are not recorded.
    output: the folder of the mix, which the card is called by.
    record: how it was mixed.
  """
  inputs = [origins.of(str(path)) for path in paths]
  origin = origins.mixed(inputs[0], inputs, record)
  library = "transformers" if any(map(huggingface.is_source, paths)) else "factshock"
  title = os.path.basename(os.path.normpath(output))
  return model_card.text_of(title, origin, config, library=library)
