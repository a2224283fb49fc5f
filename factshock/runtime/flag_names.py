"""Flags under their old names, which go on working and say what they are called now."""

from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from factshock.runtime import messages
from factshock.runtime.errors import UserError

_NO_OTHER_VALUES: Mapping[str, Sequence[str]] = {}


def rename(
  old: str,
  new: str,
  values: Mapping[str, Sequence[str]] = _NO_OTHER_VALUES,
) -> None:
  """Makes a flag known under its old name too; --help lists the new one alone.

  Args:
    old: the name it had.
    new: its name, of a flag that is defined.
    values: what it is called now, by old value, where that changed too: the first of the new
      values, or another of them that is given under the new name.
  """
  flags.DEFINE_flag(_OldName(old, flags.FLAGS[new], values), flags.FLAGS, __name__)


def current(given: flags.FlagValues, name: str) -> str:
  """Returns what a flag of some name is called now."""
  flag = given[name]
  return flag.current_name if isinstance(flag, _OldName) else name


def check(given: flags.FlagValues) -> None:
  """Raises a UserError where a flag is given under both names with values that differ."""
  for name in given:
    flag = given[name]
    if isinstance(flag, _OldName):
      flag.check()


class _OldName(flags.Flag[str]):
  """Hands what it is given to the flag of the new name."""

  def __init__(
    self,
    old: str,
    target: "flags.Flag[Any]",
    values: Mapping[str, Sequence[str]],
  ) -> None:
    super().__init__(flags.ArgumentParser[str](), None, old, None, f"Now called --{target.name}.")
    self._target = target
    self._values = values
    self._handed = 0  # how often

  @property
  def current_name(self) -> str:
    """Returns the name of the flag that it hands its value to."""
    return self._target.name

  def parse(self, argument: str) -> None:
    """Says what the flag is called now, and sets it unless that name was given before."""
    target = self._target
    now = self._meant(argument)[0]
    if not self.present:
      instead = target.name if now == argument else f"{target.name}={now}"
      messages.say_aside(f"--{self.name} is now called --{instead}")
    if target.present == self._handed:
      target.parse(now)
      target.using_default_value = False
      self._handed += 1
    self.value = argument
    self.present += 1

  def check(self) -> None:
    """Raises a UserError where the new name was given another value."""
    if not self.present or self.value is None:
      return
    target = self._target
    meant = [target.parser.parse(value) for value in self._meant(self.value)]
    if target.value not in meant:
      raise UserError(
        f"--{self.name}={self.value}: is now called --{target.name}, which has another value; give "
        f"--{target.name} alone"
      )

  def _meant(self, argument: str) -> Sequence[str]:
    return self._values.get(argument, (argument,))
