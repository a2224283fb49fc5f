"""Reads a jaxpr for what a GPU would choke on.

A jaxpr, and not the text that is lowered from it: it names the source line of each operation, and
says how often a loop runs.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from jax._src import source_info_util  # nothing public gives an equation's source line
from jax.extend.core import Jaxpr, Literal

from factshock.training import flops

# Elements from which on an array counts as a weight or an activation; smaller ones cost nothing.
LARGE = 1 << 20

FLOAT32_PRODUCT = "float32 product"
WEIGHT_TRANSPOSE = "transposed weight"
LOGITS_GATHER = "gather or scatter of logits"
LOGITS_SORT = "sort of logits"
HOST = "call of the host"
INVARIANT = "computed in each turn of a loop, the same in all"
WIDE_KEPT = "float32 kept for the reverse pass"
WIDE_CARRIED = "float32 of all rows and heads carried from layer to layer"
JOINED = "weights joined anew"

_GATHERS = ("gather", "scatter", "scatter-add", "scatter_add")
_SORTS = ("sort", "top_k", "approx_top_k")
_HOSTS = (
  "pure_callback",
  "io_callback",
  "debug_callback",
  "debug_print",
  "outside_call",
  "infeed",
  "outfeed",
)
# What is fused into its readers.
_CHEAP = ("broadcast_in_dim", "reshape", "convert_element_type", "squeeze", "copy", "iota")


@dataclasses.dataclass(frozen=True)
class Fault:
  """Holds what was found in a program, and how often it happens in one run of it.

  Attributes:
    kind: one of the names above.
    array: what it happens to, with shape and dtype.
    line: file and line of the package.
    times: how often.
    flops: of a product, all times together.
  """

  kind: str
  array: str
  line: str
  times: int
  flops: int = 0


@dataclasses.dataclass(frozen=True)
class _Reading:
  """Says what is read and where.

  Attributes:
    vocab_size: the model's.
    large: elements from which on an array counts.
    times: how often the jaxpr runs.
    loop: "scan" (over layers) or "while" (over tokens) where it is a loop's, or called from one.
    same: its variables that no turn of the loop changes.
  """

  vocab_size: int
  large: int
  times: int = 1
  loop: str | None = None
  same: frozenset[Any] = frozenset()


def read(jaxpr: Jaxpr, vocab_size: int, large: int = LARGE) -> list[Fault]:
  """Returns the faults of a jaxpr without its dead code, those of one line in one.

  Args:
    jaxpr: of a traced program.
    vocab_size: the model's.
    large: elements from which on an array counts.
  """
  totals: dict[tuple[str, str, str], Fault] = {}
  for fault in _faults(flops.without_dead_code(jaxpr), _Reading(vocab_size, large)):
    key = (fault.kind, fault.array, fault.line)
    if key in totals:
      times = totals[key].times + fault.times
      fault = dataclasses.replace(fault, times=times, flops=totals[key].flops + fault.flops)
    totals[key] = fault
  return sorted(totals.values(), key=lambda fault: (fault.kind, fault.line, fault.array))


def _faults(jaxpr: Jaxpr, reading: _Reading) -> Iterator[Fault]:
  """Yields the faults of a jaxpr's equations and of those that they call."""
  same = set(reading.same)
  products = set()
  for index, equation in enumerate(jaxpr.eqns):
    inputs = [variable for variable in equation.invars if not isinstance(variable, Literal)]
    is_same = reading.loop is not None and all(variable in same for variable in inputs)
    if is_same:
      same.update(equation.outvars)
    if equation.primitive.name == "dot_general":
      products.update(equation.outvars)
    folded = bool(inputs) and inputs[0] in products
    kind = _kind(equation, reading, is_same, folded)
    if kind is not None:
      made = reading.times * flops.product_flops(equation)
      yield Fault(kind, _array_of(equation), line_of(equation), reading.times, made)
    if equation.primitive.name == "scan":
      yield from _kept(equation, jaxpr.eqns[index + 1 :], reading)
    for inner in flops.inner_jaxprs(equation.params):
      yield from _faults(inner, _inner(equation, inner, reading, same))


def _kind(equation: Any, reading: _Reading, is_same: bool, folded: bool) -> str | None:
  """Returns which fault an equation is, or None.

  Args:
    equation: of a jaxpr.
    reading: what is read.
    is_same: whether no turn of the loop around it changes its inputs.
    folded: whether its input is a product, which can be written in any layout.
  """
  name = equation.primitive.name
  is_large = _size(equation) >= reading.large
  if name == "dot_general":
    wide = any(variable.aval.dtype == "float32" for variable in equation.invars)
    return FLOAT32_PRODUCT if wide else None
  if name == "transpose" and equation.outvars[0].aval.ndim == 2 and is_large and not folded:
    return WEIGHT_TRANSPOSE
  if name in _GATHERS + _SORTS:
    return _kind_of_logits(equation, reading.vocab_size, is_large)
  if name == "concatenate" and is_large and _joins_weights(equation):
    return JOINED
  if name in _HOSTS:
    return HOST
  calls = any(True for _ in flops.inner_jaxprs(equation.params))
  # A cast in a loop over layers is fused, or small beside the layer; for a token it is not.
  casts = name == "convert_element_type" and reading.loop == "while"
  if is_same and is_large and not calls and (casts or name not in _CHEAP):
    return INVARIANT
  return None


def _kind_of_logits(equation: Any, vocab_size: int, is_large: bool) -> str | None:
  """Returns which fault a gather, scatter or sort is, or None.

  A gather of few logits costs nothing; its gradient, a scatter, goes through all of them.
  """
  shape = equation.invars[0].aval.shape
  if len(shape) < 2 or shape[-1] != vocab_size:
    return None
  if equation.primitive.name in _SORTS:
    return LOGITS_SORT
  return LOGITS_GATHER if is_large or equation.primitive.name != "gather" else None


def _joins_weights(equation: Any) -> bool:
  """Returns whether a concatenation is of matrices side by side, as layers.Part.joined makes it."""
  shape = equation.outvars[0].aval.shape
  return len(shape) == 2 and equation.params["dimension"] == 1


def _kept(equation: Any, later: list[Any], reading: _Reading) -> Iterator[Fault]:
  """Yields large float32 arrays that a scan stacks for a later one, its reverse pass, or carries.

  It carries one of all rows and heads where it sums the gradient of such a bias.
  """
  read_later = set()
  for other in later:
    if other.primitive.name == "scan":
      read_later.update(v for v in other.invars if not isinstance(v, Literal))
  (body,) = flops.inner_jaxprs(equation.params)
  for own, variable in zip(body.outvars, equation.outvars):
    aval = variable.aval
    shape = own.aval.shape
    if aval.dtype != "float32" or math.prod(shape) < reading.large:
      continue
    line = _maker(body, own) or line_of(equation)
    if aval.ndim == own.aval.ndim and len(shape) > 3 and shape[0] > 1:
      yield Fault(WIDE_CARRIED, _text(aval), line, reading.times)
    if aval.ndim > own.aval.ndim and variable in read_later:
      yield Fault(WIDE_KEPT, _text(aval), line, reading.times)


def _maker(jaxpr: Jaxpr, variable: Any) -> str | None:
  """Returns the line that makes a variable of a jaxpr, or None."""
  for equation in jaxpr.eqns:
    if variable not in equation.outvars:
      continue
    index = equation.outvars.index(variable)
    for inner in flops.inner_jaxprs(equation.params):
      return _maker(inner, inner.outvars[index]) or line_of(equation)
    return line_of(equation)
  return None


def _inner(equation: Any, inner: Jaxpr, reading: _Reading, same: set[Any]) -> _Reading:
  """Returns how to read a jaxpr that an equation calls."""
  name = equation.primitive.name
  if name == "scan":
    times = reading.times * equation.params["length"]
    constants = frozenset(inner.invars[: _constants_of_scan(equation, inner)])
    return dataclasses.replace(reading, times=times, loop=name, same=constants)
  if name == "while":
    body = equation.params["body_jaxpr"]
    is_body = inner is getattr(body, "jaxpr", body)
    count = equation.params["body_nconsts" if is_body else "cond_nconsts"]
    return dataclasses.replace(reading, loop=name, same=frozenset(inner.invars[:count]))
  if len(inner.invars) != len(equation.invars):
    return dataclasses.replace(reading, same=frozenset())
  passed = frozenset(
    own
    for own, given in zip(inner.invars, equation.invars)
    if isinstance(given, Literal) or given in same
  )
  return dataclasses.replace(reading, same=passed)


def _constants_of_scan(equation: Any, body: Jaxpr) -> int:
  """Returns how many arguments a scan's body gets as they are: what is neither carried nor cut.

  Counted by their ranks, as the names of a scan's parameters are not those of every JAX.
  """
  cut = sum(given.aval.ndim > own.aval.ndim for given, own in zip(equation.invars, body.invars))
  carried = sum(
    given.aval.ndim == own.aval.ndim for given, own in zip(equation.outvars, body.outvars)
  )
  return len(body.invars) - cut - carried


def line_of(equation: Any) -> str:
  """Returns the file and line of the package that an equation comes from, or "?"."""
  for frame in source_info_util.user_frames(equation.source_info.traceback):
    if "factshock/" in frame.file_name:
      return f"{frame.file_name.rsplit('factshock/', 1)[-1]}:{frame.start_line}"
  return "?"


def _size(equation: Any) -> int:
  return max((math.prod(variable.aval.shape) for variable in equation.outvars), default=0)


def _array_of(equation: Any) -> str:
  name = equation.primitive.name
  if name == "dot_general":
    return " x ".join(_text(variable.aval) for variable in equation.invars)
  if name in _GATHERS + _SORTS:
    return f"{name} {_text(equation.invars[0].aval)}"
  outputs = [_text(variable.aval) for variable in equation.outvars]
  return " ".join([name, *outputs])


def _text(aval: Any) -> str:
  return f"{aval.dtype}[{', '.join(map(str, aval.shape))}]"
