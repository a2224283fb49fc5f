"""Settings declared once: dataclasses whose fields carry the check of their value."""

import dataclasses
import difflib
import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from factshock.runtime.errors import UserError

NO_DEFAULT: Any = object()  # of a setting that must be given


@dataclasses.dataclass(frozen=True)
class Check:
  """Requirement on a setting's value.

  Attributes:
    types: of the value.
    accepts: whether a value of these types will do.
    expected: what is expected, in words.
    required: whether a section must have the setting.
    meaning: what the setting says, for whoever looks it up.
    default: its value where a section leaves it out; NO_DEFAULT where it has none.
  """

  types: tuple[type, ...]
  accepts: Callable[[Any], bool]
  expected: str
  required: bool = True
  meaning: str = ""
  default: Any = NO_DEFAULT

  def means(self, meaning: str) -> "Check":
    """Returns the same check of a setting that says this."""
    return dataclasses.replace(self, meaning=meaning)

  def fits(self, value: Any) -> bool:
    """Returns whether a value is of the types and accepted; a bool is no number."""
    if isinstance(value, bool) and bool not in self.types:
      return False
    if not isinstance(value, self.types):
      return False
    return self.accepts(value)


T = TypeVar("T")

# An entry "name: text" of a docstring's section; its further lines are indented by more.
_ENTRY = re.compile(r"  (\w+): (.*)")
_SECTIONS = ("Args:", "Attributes:")

Schema: TypeAlias = Mapping[str, "Check | Schema"]

_NUMBER = (int, float)
_INFINITY = float("inf")
COUNT = Check(
  (int,),
  lambda v: v >= 1,
  "a whole number of at least 1",
)
WHOLE = Check(
  (int,),
  lambda v: v >= 0,
  "a whole number of at least 0",
)
POSITIVE = Check(
  _NUMBER,
  lambda v: v > 0,
  "a number above 0",
)
NOT_NEGATIVE = Check(
  _NUMBER,
  lambda v: v >= 0,
  "a number of at least 0",
)
SHARE = Check(
  _NUMBER,
  lambda v: 0 <= v <= 1,
  "a number from 0 to 1",
)
FINITE = Check(
  _NUMBER,
  lambda v: abs(v) < _INFINITY,
  "a finite number",
)
INSIDE = Check(
  _NUMBER,
  lambda v: 0 < v < 1,
  "a number between 0 and 1",
)
TEXT = Check(
  (str,),
  lambda v: True,
  "a text",
)
FLAG = Check(
  (bool,),
  lambda v: True,
  "True or False",
)


def optional(check: Check) -> Check:
  """Returns the check of a setting that a section may leave out."""
  return dataclasses.replace(check, required=False)


def choice(*values: str) -> Check:
  """Returns the check of a text that is one of the values."""
  listed = ", ".join(map(repr, values))
  return Check((str,), lambda v: v in values, f"one of {listed}")


def tuple_of(check: Check, least: int = 0) -> Check:
  """Returns the check of a list of at least `least` values that fit another check."""

  def fits(values: Sequence[Any]) -> bool:
    return len(values) >= least and all(map(check.fits, values))

  return Check(
    (tuple, list),
    fits,
    f"a list of at least {least}, each {check.expected}",
  )


def _is_seeds(value: int | Sequence[int]) -> bool:
  if isinstance(value, int):
    return value >= 1
  if not value:
    return False
  return all(map(WHOLE.fits, value)) and len(set(value)) == len(value)


SEEDS = Check(
  (int, tuple, list),
  _is_seeds,
  "a number of seeds (3 for 0, 1, 2) or a list of different seeds",
)


def seed_list(seeds: int | Sequence[int]) -> list[int]:
  """Returns the seeds that a value of SEEDS asks for."""
  if isinstance(seeds, int):
    return list(range(seeds))
  return list(seeds)


def setting(check: Check, **options: Any) -> Any:
  """Returns a dataclass field with its check.

  Args:
    check: what its value may be.
    **options: those of dataclasses.field, such as `default`.
  """
  return dataclasses.field(metadata={"check": check}, **options)


def schema_of(settings: type) -> dict[str, Check]:
  """Returns the checks of a dataclass by field name, in the order of its fields.

  What a setting means is read from the docstring of its class, where the code's readers find it.
  """
  meanings = meanings_of(settings)
  checks: dict[str, Check] = {}
  for field in _settings_of(settings):
    default = NO_DEFAULT if field.default is dataclasses.MISSING else field.default
    checks[field.name] = dataclasses.replace(
      field.metadata["check"], meaning=meanings.get(field.name, ""), default=default
    )
  return checks


@functools.cache
def meanings_of(settings: type) -> Mapping[str, str]:
  """Returns what the docstrings of a class and of its bases say of its attributes, by name."""
  meanings: dict[str, str] = {}
  for base in reversed(settings.__mro__):
    meanings |= _entries(inspect.cleandoc(base.__doc__ or ""))
  return meanings


def _entries(docstring: str) -> dict[str, str]:
  """Returns the entries of a docstring's list of attributes or arguments, by name."""
  entries: dict[str, str] = {}
  name = ""
  is_inside = False
  for line in docstring.splitlines():
    if line and not line.startswith(" "):
      is_inside = line in _SECTIONS
      continue
    entry = _ENTRY.fullmatch(line)
    if is_inside and entry:
      name, entries[entry[1]] = entry[1], entry[2]
    elif is_inside and name and line.strip():
      entries[name] += f" {line.strip()}"
  return entries


def with_defaults(settings: type) -> list[str]:
  """Returns the fields of a dataclass that have a check and a default."""
  fields = _settings_of(settings)
  return [field.name for field in fields if field.default is not dataclasses.MISSING]


def _settings_of(settings: type) -> list["dataclasses.Field[Any]"]:
  """Returns the fields of a dataclass that carry a check."""
  fields = dataclasses.fields(settings)
  return [field for field in fields if "check" in field.metadata]


def check_fields(settings: Any, path: str) -> None:
  """Checks every field of a dataclass instance, as its __post_init__ does.

  Args:
    settings: the instance.
    path: name of it in the error, such as "config.finetune".

  Raises:
    UserError: names every value that does not fit.
  """
  problems: list[str] = []
  for name, check in schema_of(type(settings)).items():
    value = getattr(settings, name)
    if not check.fits(value):
      problems.append(f"{path}.{name}: expected {check.expected}, got {value!r}")
  if problems:
    raise UserError("\n  ".join(problems))


def values_of(
  settings: type,
  section: Mapping[str, Any],
  path: str,
) -> dict[str, Any]:
  """Returns what a section says of a dataclass's settings, by field name; lists as tuples.

  Args:
    settings: the dataclass.
    section: values by name; keys that are no settings of the dataclass are left out.
    path: name of the section in the error, such as "config.finetune".

  Raises:
    UserError: names the settings without a default that the section lacks.
  """
  fields = _settings_of(settings)
  required = [field.name for field in fields if field.default is dataclasses.MISSING]
  missing = [name for name in required if name not in section]
  if missing:
    raise UserError(f"{path}: expected a value for {', '.join(missing)}, got none")
  values: dict[str, Any] = {}
  for field in fields:
    if field.name in section:
      value = section[field.name]
      if isinstance(value, list):
        value = tuple(value)
      values[field.name] = value
  return values


def check_sections(config: Any, schema: Schema) -> None:
  """Checks a config all of whose keys one schema names.

  Raises:
    UserError: names every problem.
  """
  raise_if_any(section_problems(config, schema, "config"))


def raise_if_any(problems: Sequence[str]) -> None:
  """Raises a UserError with a config's problems, a line each, unless there are none."""
  if problems:
    raise UserError("the config cannot be used:\n  " + "\n  ".join(problems))


def attempt(
  read: Callable[[], T],
  problems: list[str],
  prefix: str = "",
) -> T | None:
  """Returns what `read()` gives; None where it raises a UserError, which is added to problems."""
  try:
    return read()
  except UserError as error:
    problems.append(f"{prefix}{error}")
    return None


def section_problems(
  section: Any,
  schema: Schema,
  path: str,
  extra: Sequence[str] = (),
  optional: Collection[str] = (),
) -> list[str]:
  """Returns what is wrong with a section's keys and values, a line each.

  Args:
    section: of a config, or the config itself.
    schema: checks by key.
    path: name of the section in the lines.
    extra: keys that must be there too and are checked elsewhere.
    optional: keys that may be left out.
  """
  known = [*schema, *extra]
  unknown = [key for key in section if key not in known]
  left_out = [key for key in known if key not in section and key not in optional]
  missing = [key for key in left_out if _is_required(schema.get(key))]
  problems = [unknown_key(f"{path}.{key}", key, known) for key in unknown]
  problems += [f"{path}.{key} is missing" for key in missing]
  for key, check in schema.items():
    if key not in section:
      continue
    value = section[key]
    key_path = f"{path}.{key}"
    if isinstance(check, Check):
      problems += value_problems(value, check, key_path)
    elif hasattr(value, "keys"):
      problems += section_problems(value, check, key_path)
    else:
      keys = ", ".join(check)
      problems.append(f"{key_path}: expected a section with {keys}, got {value!r}")
  return problems


def _is_required(check: "Check | Schema | None") -> bool:
  return not isinstance(check, Check) or check.required


def value_problems(
  value: Any,
  check: Check,
  path: str,
) -> list[str]:
  """Returns the line that says what is wrong with a value; none where it fits."""
  if check.fits(value):
    return []
  return [f"{path}: expected {check.expected}, got {value!r}"]


def known_problems(values: Mapping[str, Any], schema: Mapping[str, Check]) -> list[str]:
  """Returns what is wrong with values that other programs wrote, a line each.

  Args:
    values: by key; a missing one, None, and keys without a check are left to the reader.
    schema: checks by key.
  """
  problems: list[str] = []
  for key, check in schema.items():
    value = values.get(key)
    if value is not None and not check.fits(value):
      problems.append(f"{key}: expected {check.expected}, got {value!r:.60}")
  return problems


def unknown_key(
  path: str,
  key: str,
  known: Iterable[str],
) -> str:
  """Returns the line on an unknown key, with the name that may have been meant.

  Args:
    path: of the key, such as "config.world.subject".
    key: its last part.
    known: the keys that there are.
  """
  keys = list(known)
  close = difflib.get_close_matches(str(key), keys, 1)  # a config file may name it by a number
  if close:
    return f"{path} is unknown; did you mean {close[0]!r}?"
  listed = ", ".join(sorted(keys))
  return f"{path} is unknown; known here: {listed}"
