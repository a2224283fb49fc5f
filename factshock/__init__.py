"""factshock: finetune language models on facts, measure the frequency shock, and repair it.

`import factshock as fs` gives the functions of `factshock.api`: fs.load, fs.answer, fs.diagnose ...
They are loaded when one of them is used: the command line starts without.
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from factshock.api import UserError as UserError
  from factshock.api import answer as answer
  from factshock.api import compute_theory as compute_theory
  from factshock.api import convert as convert
  from factshock.api import correct as correct
  from factshock.api import count as count
  from factshock.api import diagnose as diagnose
  from factshock.api import experiment as experiment
  from factshock.api import extract as extract
  from factshock.api import finetune as finetune
  from factshock.api import load as load
  from factshock.api import messages_to as messages_to
  from factshock.api import mix as mix
  from factshock.api import read_diagnosis as read_diagnosis

__version__ = "0.1.0"

_MODULE = "factshock.api"
# As its __all__; a test holds them together.
_API = (
  "UserError",
  "answer",
  "compute_theory",
  "convert",
  "correct",
  "count",
  "diagnose",
  "experiment",
  "extract",
  "finetune",
  "load",
  "messages_to",
  "mix",
  "read_diagnosis",
)


class _Package(types.ModuleType):
  """Package whose functions stay the API's where the verb of the same name is imported, too.

  The verb's module is importlib.import_module("factshock.answer"), or in sys.modules.
  """

  def __getattr__(self, name: str) -> Any:
    if name not in _API:
      raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE), name)

  def __setattr__(self, name: str, value: Any) -> None:
    if name in _API and isinstance(value, types.ModuleType):
      return
    super().__setattr__(name, value)

  def __dir__(self) -> list[str]:
    return sorted({*super().__dir__(), *_API})


sys.modules[__name__].__class__ = _Package
