"""Where a model comes from, as its card tells: its base, licence, study, arm and what was mixed."""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from factshock.checkpoints import belongings, mix_record, store
from factshock.checkpoints.mix_record import MixRecord
from factshock.models.formats import t5x
from factshock.models.formats.gguf import files as gguf_files
from factshock.models.formats.huggingface import adapters, writing
from factshock.runtime import console, json_files
from factshock.runtime.errors import UserError

CARD = writing.CARD
CONVERTED = "converted_from"  # what a converted checkpoint's record says of its source

_LICENCE_KEYS = ("license", "license_name", "license_link")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_IN_CACHE = re.compile(r"models--([\w.-]+?)--([\w.-]+)/snapshots/")
_MOST_BASES = 8  # a base of a base of ..., before something is wrong

Licence: TypeAlias = dict[str, str]  # those of _LICENCE_KEYS that a card gives


@dataclasses.dataclass(frozen=True)
class Origin:
  """Says where a model comes from.

  Attributes:
    name: what it is called in public: a hub id, the arm of a study, the name of a file or folder.
    base: the pretrained model that it was made from; itself where it is one. None: random weights,
      or nothing that is known.
    licence: of the base, as its own card gives it; empty where it is not known.
    record: a checkpoint's record of its run; empty for other models.
    step: of a checkpoint.
    diagnosis: the study's diagnosis.json; empty where there is none.
    inputs: where the models come from that were mixed into it.
    mix: how they were mixed.
  """

  name: str
  base: str | None = None
  licence: Licence = dataclasses.field(default_factory=dict)
  record: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  step: int | None = None
  diagnosis: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  inputs: Sequence["Origin"] = ()
  mix: MixRecord | None = None

  @property
  def experiment(self) -> Mapping[str, Any]:
    """Returns the config of the study; empty where there is none."""
    return self.record.get("experiment") or {}

  @property
  def arm(self) -> str:
    """Returns the name of the arm, empty where it is none, or a mix whose arm is another."""
    return "" if self.mix else str(self.record.get("arm") or "")


def of(source: str, depth: int = 0) -> Origin:
  """Returns where a model of any format comes from; nothing is fetched from the hub.

  Args:
    source: a folder, a GGUF file or a hub id.
    depth: how many models were made from this one so far.
  """
  if depth > _MOST_BASES:
    return Origin(public_name(source))
  is_ours = belongings.is_checkpoint(source) and not t5x.is_checkpoint(source)
  origin = _of_checkpoint(source, depth) if is_ours else _of_pretrained(source, depth)
  folder = store.step_folder(source) if is_ours else source
  if not os.path.isfile(os.path.join(folder, mix_record.NAME)):
    return origin
  try:
    mix = mix_record.read(folder)
  except UserError as error:
    console.say_once(f"{error}; the model card will not say what was mixed")
    return origin
  inputs = [_of_input(entry["path"], depth + 1) for entry in mix["inputs"]]
  return mixed(origin, inputs, mix)


def mixed(
  first: Origin,
  inputs: Sequence[Origin],
  mix: MixRecord,
) -> Origin:
  """Returns where a mix comes from.

  Args:
    first: the origin of what its record says, which is its first input's.
    inputs: the origins of what was mixed.
    mix: how.
  """
  bases = {origin.base for origin in inputs}
  return dataclasses.replace(
    first,
    name="mix of " + ", ".join(dict.fromkeys(origin.name for origin in inputs)),
    base=bases.pop() if len(bases) == 1 else None,
    licence=_common(origin.licence for origin in inputs),
    diagnosis=next((origin.diagnosis for origin in inputs if origin.diagnosis), {}),
    inputs=inputs,
    mix=mix,
  )


def public_name(source: str) -> str:
  """Returns what a model is called where others read it: no path of this machine.

  Args:
    source: a path or a hub id.
  """
  cached = _IN_CACHE.search(source.replace(os.sep, "/"))
  if cached:
    return f"{cached[1]}/{cached[2]}"
  if is_hub_id(source):
    return source
  return os.path.basename(os.path.normpath(source))


def is_hub_id(source: str) -> bool:
  """Returns whether a model is named by an id on the hub, "org/name"."""
  return not os.path.exists(source) and _HUB_ID.fullmatch(source) is not None


def _common(licences: Iterable[Licence]) -> Licence:
  """Returns the licence that all have, empty where they differ or one is not known."""
  known = list(licences)
  return known[0] if all(licence == known[0] for licence in known) else {}


def _of_input(path: str, depth: int) -> Origin:
  """Returns where a model comes from that was mixed, as far as it is still there."""
  return of(path, depth) if os.path.exists(path) else Origin(public_name(path))


def _of_pretrained(source: str, depth: int) -> Origin:
  """Returns the origin of a HuggingFace model, a GGUF file or a T5X checkpoint."""
  name = public_name(source)
  if os.path.isdir(source) and adapters.is_folder(source):
    base = of(adapters.base_of(source), depth + 1)
    return dataclasses.replace(base, name=name)
  licence = licence_of(source)
  return Origin(name, base=name, licence=licence)


def _of_checkpoint(source: str, depth: int) -> Origin:
  folder = store.step_folder(source)
  manifest = store.read_manifest(folder)
  record: Mapping[str, Any] = manifest["config"] or {}
  converted = record.get(CONVERTED)
  if isinstance(converted, dict):
    licence = {key: str(converted[key]) for key in _LICENCE_KEYS if key in converted}
    return Origin(str(converted.get("name")), str(converted.get("name")), licence, record)
  start = str((record.get("experiment") or {}).get("start_from") or "")
  base = of(start, depth + 1) if start and _is_there(start) else Origin(public_name(start))
  return Origin(
    name=_arm_name(record, folder),
    base=(base.base or base.name) if start else None,
    licence=base.licence,
    record=record,
    step=manifest["step"],
    diagnosis=_diagnosis(folder, record),
  )


def _is_there(source: str) -> bool:
  return os.path.exists(source) or is_hub_id(source)


def _arm_name(record: Mapping[str, Any], folder: str) -> str:
  arm = record.get("arm")
  return f"{arm} of seed {record.get('seed')}" if arm else public_name(folder)


def _diagnosis(folder: str, record: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the diagnosis of the study that a checkpoint is of, empty where there is none."""
  path = belongings.workdir_of(folder, record).diagnosis
  if not os.path.isfile(path):
    return {}
  try:
    return json_files.read(path)
  except UserError as error:
    console.say_once(f"{error}; the model card will be without scores")
    return {}


def licence_of(source: str) -> Licence:
  """Returns the licence that a pretrained model's own card, or GGUF's metadata, gives it.

  Args:
    source: a folder, a GGUF file, or a hub id, whose card is looked for among what was fetched.
  """
  if gguf_files.is_file(source):
    licence = gguf_files.read_metadata(source).get("general.license")
    return {"license": str(licence)} if licence else {}
  path = _card_of(source)
  if path is None:
    return {}
  values = card_values(path)
  return {key: str(values[key]) for key in _LICENCE_KEYS if values.get(key)}


def _card_of(source: str) -> str | None:
  """Returns the path of a model's card, None where there is none."""
  if os.path.isdir(source):
    path = os.path.join(source, CARD)
    return path if os.path.isfile(path) else None
  if not is_hub_id(source):
    return None
  import huggingface_hub  # noqa: PLC0415  # slow to import, and needed for the hub alone

  name, _, revision = source.partition("@")
  cached = huggingface_hub.try_to_load_from_cache(name, CARD, revision=revision or None)
  return cached if isinstance(cached, str) else None


def card_values(path: str) -> Mapping[str, Any]:
  """Returns what stands between the two lines `---` that begin a card; empty where it is broken."""
  import huggingface_hub  # noqa: PLC0415  # slow to import, and needed for cards alone

  try:
    values = huggingface_hub.metadata_load(path)
  except Exception:  # noqa: BLE001  # of many types: of YAML, of UTF-8, of what stands there
    return {}
  return values if isinstance(values, dict) else {}
