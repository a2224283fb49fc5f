"""Every key of a config with its value, what it may be and what it says, from the schema."""

import dataclasses
import shlex
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from factshock.models import families
from factshock.runtime.settings import NO_DEFAULT, Check, Schema
from factshock.study import config as configs
from factshock.study.arms import registry
from factshock.study.arms.kind import Kind
from factshock.study.config import ArmKey, Config
from factshock.theory import settings as theory_settings
from factshock.training import settings as training_settings

_COLUMNS = 100
MISSING = dataclasses.MISSING


@dataclasses.dataclass(frozen=True)
class Key:
  """Key of a config.

  Attributes:
    path: its name with those of its sections, such as "finetune.steps".
    value: what the config has; MISSING where it leaves the key out.
    check: what it may be, says, and is where it is left out.
  """

  path: str
  value: Any
  check: Check

  @property
  def flag(self) -> str:
    """Returns the flag that sets the key to the value that it has, as a shell takes it."""
    if self.value is MISSING:
      return f"--config.{self.path}"
    return f"--config.{self.path}={_quoted(self.value)}"


def schema_of(config: Config) -> Schema:
  """Returns the checks of all keys of a config but those of its arms."""
  if config.get("study") == "one_layer":
    return theory_settings.SCHEMA
  return {**configs.SCHEMA, "model": families.section_schema(config.model.family)}


def keys(config: Config) -> list[Key]:
  """Returns the keys of a config but those of its arms: those it has, and those it might have."""
  return list(_keys(config, schema_of(config), ""))


def _keys(section: Config, schema: Schema, path: str) -> Iterator[Key]:
  """Yields the keys of a section, then those of the sections in it."""
  for name, check in schema.items():
    if isinstance(check, Check):
      yield Key(f"{path}{name}", section.get(name, MISSING), check)
  for name, check in schema.items():
    if not isinstance(check, Check):
      yield from _keys(section[name], check, f"{path}{name}.")


def kinds_of(config: Config) -> list[Kind]:
  """Returns the kinds of a config's arms, in the order in which they first come."""
  names = [arm.kind for arm in config.get("arms", {}).values()]
  return [registry.kinds()[name] for name in dict.fromkeys(names)]


def kind_keys(kind: Kind) -> Mapping[str, ArmKey]:
  """Returns the keys of an arm of a kind that neither all arms have nor config.finetune."""
  elsewhere = set(configs.arm_schema())
  if kind.trains:
    elsewhere |= set(training_settings.section_schema(training_settings.FinetuningConfig))
  return {name: key for name, key in kind.keys.items() if name not in elsewhere}


def lines(config: Config) -> list[str]:
  """Returns a page of a terminal that explains every key of a config."""
  page: list[str] = []
  section = None
  for key in keys(config):
    own, _, _ = key.path.rpartition(".")
    if own != section:
      section = own
      page += ["", f"{own or 'the study'}:"]
    page += _key_lines(key)
  if config.get("arms"):
    page += _arms_lines(config)
  return page


def _key_lines(key: Key) -> list[str]:
  """Returns the lines on one key: the flag that sets it, and what it says and may be."""
  left_out = ""
  if key.value is MISSING:
    default = key.check.default
    left_out = "   (left out)" if default is NO_DEFAULT else f"   (left out: {default!r})"
  return [f"  {key.flag}{left_out}", *_explained(key.check, 6)]


def _explained(check: Check, indent: int) -> list[str]:
  """Returns the lines on what a setting says and may be."""
  text = f"{check.meaning} [{check.expected}]"
  return _wrapped(text[0].upper() + text[1:], indent)


def _wrapped(text: str, indent: int, further: int = 0) -> list[str]:
  """Returns a text as lines that fit a terminal, the further ones indented by more."""
  return textwrap.wrap(
    text,
    _COLUMNS,
    initial_indent=" " * indent,
    subsequent_indent=" " * (indent + further),
    break_long_words=False,
    break_on_hyphens=False,
  )


def _arms_lines(config: Config) -> list[str]:
  """Returns the lines on the arms: each with its keys, and what the keys of each kind say."""
  page = ["", "arms, each a section --config.arms.NAME:"]
  for name, arm in config.arms.items():
    values = [f"{key}={_quoted(value)}" for key, value in sorted(arm.items(), key=_kind_first)]
    page += _wrapped(f"{name}: {' '.join(values)}", 2, 4)
  page += ["", "keys of every arm:"]
  page += _arm_key_lines(configs.arm_schema())
  for kind in kinds_of(config):
    page += ["", f"keys of an arm of kind {kind.name}:", *_wrapped(kind.caption, 2)]
    page += _arm_key_lines(kind_keys(kind))
    if kind.trains:
      page.append("  and every key of config.finetune, in whose place it stands")
  return page


def _arm_key_lines(schema: configs.ArmSchema) -> list[str]:
  """Returns the lines on keys of arms: which must be there, and what each says and may be."""
  page: list[str] = []
  for name, key in schema.items():
    page.append(f"  {name}{'   (required)' if key.is_required else ''}")
    page += _explained(key.check, 6)
  return page


def _kind_first(item: tuple[str, Any]) -> bool:
  """Returns the place of an arm's key among its others: the kind comes first."""
  return item[0] != "kind"


def _quoted(value: Any) -> str:
  """Returns a value as a shell takes it."""
  text = value if isinstance(value, str) else repr(value)
  # More legible than quotes in quotes, where the shell would read the same.
  is_plain = not set('"$`\\!') & set(text)
  return f'"{text}"' if "'" in text and is_plain else shlex.quote(text)
