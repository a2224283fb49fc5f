"""FLOPs of matrix products: those a jaxpr makes, those training must make, and a device's peak."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
from jax.extend.core import Jaxpr
from jax.interpreters import partial_eval

from factshock.models import products
from factshock.training.train_step import StepFn
from factshock.types import Params

# Dense bfloat16 FLOP/s of one JAX device, by the first pattern that its device_kind has. Published
# numbers: of TPUs cloud.google.com/tpu/docs (a JAX device of v2 and v3 is one of a chip's two
# cores; these by Jouppi et al. 2020, CACM 63(7)), of GPUs NVIDIA's data sheets, the half of what
# they state with sparsity. V100 and T4 have no bfloat16: theirs is float16's.
_PEAKS = tuple(
  (re.compile(pattern, re.IGNORECASE), teraflops * 1e12)
  for pattern, teraflops in (
    (r"TPU ?v2", 23),
    (r"TPU ?v3", 61.5),
    (r"TPU ?v4 lite|TPU ?v4i", 138),
    (r"TPU ?v4", 275),
    (r"TPU ?v5 ?lite|TPU ?v5e", 197),
    (r"TPU ?v5", 459),
    (r"TPU ?v6", 918),
    (r"\bB200\b", 2250),
    (r"\bH200 NVL\b", 835.5),
    (r"\b(GH|H)200\b", 989.5),
    (r"\bH100 PCIe\b", 756.5),
    (r"\bH100 NVL\b", 835.5),
    (r"\bH100\b", 989.5),
    (r"\bA100\b", 312),
    (r"\bL40S\b", 362),
    (r"\bL40\b", 181),
    (r"\bL4\b", 121),
    (r"\bA40\b", 149.7),
    (r"\bA30\b", 165),
    (r"\bA10\b", 125),
    (r"\bV100.*PCIE", 112),
    (r"\bV100\b", 125),
    (r"\bT4\b", 65),
  )
)


class Device(Protocol):
  """JAX device, as far as it is asked here."""

  @property
  def device_kind(self) -> str: ...


def peak_flops(device: Device) -> float | None:
  """Returns the dense bfloat16 FLOP/s that a JAX device is published to have at most.

  None where it is not known: a CPU, part of a GPU.
  """
  if "MIG" in device.device_kind:
    return None
  for pattern, peak in _PEAKS:
    if pattern.search(device.device_kind):
      return peak
  return None


def model_flops(
  step_fn: StepFn,
  state: Any,
  batch: Any,
  key: Any,
  frozen: Params | None = None,
  axis: str | None = None,
) -> int:
  """Returns the FLOPs of the matrix products that a train step cannot do without.

  Nothing computed again counts, and no kernel hides any. That is the numerator of model FLOP
  utilisation (Chowdhery et al. 2022, appendix B), here counted and not estimated. It is the same
  for every config.model.remat and attention; gradients of frozen weights do not count, masked
  scores do.

  Args:
    step_fn: of train_step.make_train_step, not compiled.
    state: arrays or shapes, as the next three.
    batch: the whole batch, over all devices.
    key: of the step.
    frozen: weights that are not trained, or None.
    axis: the name that step_fn sums over (pmap), or None.
  """
  step = step_fn if axis is None else _as_one_member(step_fn, axis)
  arguments = (state, batch, key) if frozen is None else (state, batch, key, frozen)
  shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arguments)
  with products.counted():  # and a function of its own, for JAX keeps what it has traced
    return step_flops(lambda *arguments: step(*arguments), *shapes)


def step_flops(step_fn: Callable[..., Any], *arguments: Any) -> int:
  """Returns the FLOPs of the matrix products of a function of arrays or shapes.

  Those that no output needs are left out.
  """
  return count_flops(without_dead_code(jax.make_jaxpr(step_fn)(*arguments).jaxpr))


def count_flops(jaxpr: Jaxpr) -> int:
  """Returns the FLOPs of a jaxpr's matrix products, loops of known length included."""
  total = 0
  for equation in jaxpr.eqns:
    total += product_flops(equation)
    is_scan = equation.primitive.name == "scan"
    repetitions = equation.params.get("length", 1) if is_scan else 1
    total += repetitions * sum(count_flops(inner) for inner in inner_jaxprs(equation.params))
  return total


def product_flops(equation: Any) -> int:
  """Returns the FLOPs of an equation of a jaxpr that is a matrix product; else 0."""
  if equation.primitive.name != "dot_general":
    return 0
  contracted = equation.params["dimension_numbers"][0][0]
  shape = _shape(equation.invars[0])
  sums = math.prod(shape[axis] for axis in contracted)
  return 2 * math.prod(_shape(equation.outvars[0])) * sums


def without_dead_code(jaxpr: Jaxpr) -> Jaxpr:
  """Returns a jaxpr without what no output needs, as the compiler drops it.

  Gradients of frozen weights, say.
  """
  return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), True)[0]


def _shape(variable: Any) -> tuple[int, ...]:
  return variable.aval.shape


def _as_one_member(step_fn: StepFn, axis: str) -> StepFn:
  """Returns a step that sums over an axis as the axis's only member: it has the whole batch."""

  def step(state: Any, batch: Any, *others: Any) -> Any:
    whole = jax.tree.map(lambda leaf: leaf[None], batch)
    return jax.vmap(lambda batch: step_fn(state, batch, *others), axis_name=axis)(whole)

  return step


def inner_jaxprs(params: Mapping[str, Any]) -> Iterator[Jaxpr]:
  """Yields the jaxprs that an equation calls."""
  for value in params.values():
    items = value if isinstance(value, (tuple, list)) else (value,)
    for item in items:
      inner = getattr(item, "jaxpr", item)
      if hasattr(inner, "eqns"):
        yield inner
