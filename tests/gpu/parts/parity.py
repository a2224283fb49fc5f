"""Whether the models compute the right numbers, and cuDNN's attention too.

References: PyTorch transformers in float64 on a CPU, with the same weights and batches
(`tests/gpu/references.py`): two layers, heads of 64, lengths 64, 192 and 256, a row of padding
alone. Compared are the loss, logits, and the gradient of every weight of a train step's loss,
relative in norm; a line names the gradient that is farthest. "highest" is float32 without TF32,
"default" float32 as XLA computes it by default. cuDNN's distance is given in those of XLA's in
bfloat16. Packed rows, rematerialised layers and LoRA have the same references. Greedy tokens are
compared up to the first that two logits closer than a stated margin decide.
"""

import concurrent.futures
import dataclasses
import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from factshock.answering import batches, sampling
from factshock.checkpoints.loading import LoadedModel
from factshock.models import families, fused, lora
from factshock.models.decoder import LlamaConfig
from factshock.models.t5 import T5Config
from factshock.training import train_step
from factshock.types import Batch, Params
from gpu import cases, references
from gpu.cases import Case, Shape
from gpu.results import Check, Checked

# Half the distance between 1 and the next number: of 24, 11 and 8 significant bits.
_ROUNDOFF = {"highest": 2.0**-24, "default": 2.0**-11, "bfloat16": 2.0**-8, "cudnn": 2.0**-8}
# How many roundoffs a result may be off. Each number is computed by some 30 products and roundings
# one after another (two layers forth and back), whose errors add up as their root and which norms
# and softmax enlarge; a loss is a mean over hundreds of tokens, whose errors are independent. Sums
# are kept in float32, so that "highest" alone rounds them as they grow, and angles of up to 256
# radians beside, with an error of up to 128 of its roundoffs in the fastest pair of dimensions.
_TIMES_ROUNDOFF = {
  "highest": {"loss": 16.0, "logits": 64.0, "gradient": 128.0},
  "default": {"loss": 0.5, "logits": 8.0, "gradient": 32.0},
  "bfloat16": {"loss": 0.5, "logits": 8.0, "gradient": 32.0},
}
# cuDNN's kernel rounds the same scores and weights to bfloat16 as XLA's products do.
_TIMES_XLA = 3.0
_LEAST_OF_XLA = 1e-3
# Two float32 logits of about 1 are off by some 1e-6 each.
_MARGIN = 1e-3
_ADAPTER_RANK = 4
_ADAPTER_SCALE = 0.5
_ADAPTED = ("query", "value", "out", "up", "down")
# Compiles in half the time; for tiny shapes, which show only that all runs.
_QUICK = {"xla_backend_optimization_level": 0}
_THREADS = min(8, os.cpu_count() or 1)

# What a program gives: the loss's sum, logits at picked positions (or None), gradients.
_Results = tuple[jax.Array, jax.Array | None, Params]

# A program that is being compiled, or why it is not.
_Compiling = concurrent.futures.Future[Any] | str

# What JAX raises where a program cannot be lowered, compiled or run.
_ERRORS = (RuntimeError, ValueError, TypeError)

# The params that are trained, frozen ones beside adapters, and the batch.
_Arguments = tuple[Params, Params | None, Batch]


@dataclasses.dataclass(frozen=True)
class Variant:
  """Names one program: how a case computes on a batch.

  Attributes:
    case: the model.
    shape: of its batch.
    arithmetic: a key of _ROUNDOFF; "cudnn" is bfloat16 with cuDNN's attention.
    change: of the config beside: `remat`, say.
    kind: "plain", "packed" rows, or "LoRA".
  """

  case: Case
  shape: Shape
  arithmetic: str
  change: tuple[tuple[str, Any], ...] = ()
  kind: str = "plain"

  @property
  def name(self) -> str:
    """Returns its name in the results."""
    words = [cases.key_of(self.case, self.shape), self.arithmetic]
    if self.kind != "plain":
      words.append(self.kind)
    return ", ".join([*words, *(f"{name}={value}" for name, value in self.change)])

  @property
  def config(self) -> T5Config | LlamaConfig:
    """Returns the config of the model that computes."""
    changes: dict[str, Any] = dict(self.change)
    if self.arithmetic in ("bfloat16", "cudnn"):
      changes["dtype"] = "bfloat16"
    if self.arithmetic == "cudnn":
      changes["attention"] = "cudnn"
    return dataclasses.replace(self.case.config, **changes)


def measure(name: str, side: str, tiny: bool) -> Checked:
  """Returns the checks of "T5" or "decoder", and what this device cannot run."""
  del side
  arrays = references.load(tiny)
  device = fused.backend()
  wanted = variants_of(name, tiny)
  left_out = []
  if device.capability is None:
    # A CPU has one float32, and no cuDNN.
    left_out = [variant.name for variant in wanted if variant.arithmetic in ("cudnn", "default")]
    wanted = [variant for variant in wanted if variant.name not in left_out]
  checks = []
  of_xla: dict[tuple[str, Shape], dict[str, float]] = {}
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    generating = [
      pool.submit(_greedy, case, arrays) for case in cases.cases_of(name, tiny) if case.generates
    ]
    compiling = _compiling(pool, wanted, _QUICK if tiny else {})
    for future in generating:
      checks += _told(_of_generating(future))
    for variant, future in zip(wanted, compiling, strict=True):
      results = _run(variant, future)
      if isinstance(results, str):
        checks += _told([Check(f"{variant.name}: {results}", float("inf"), 0.0)])
        continue
      distances = _distances(variant, results, arrays)
      if variant.arithmetic == "bfloat16" and variant.kind == "plain":
        of_xla[variant.case.name, variant.shape] = distances
      xla = of_xla.get((variant.case.name, variant.shape))
      if variant.arithmetic == "cudnn" and xla is not None:
        checks += _told(_against_xla(variant, distances, xla))
      else:
        checks += _told(_against_roundoff(variant, distances))
  for line in left_out:
    print(f"left out on a {device.platform}: {line}", file=sys.stderr, flush=True)
  return Checked(checks, left_out)


def variants_of(name: str, tiny: bool) -> list[Variant]:
  """Returns the programs of "T5" or "decoder", cuDNN's last: one may leave the device broken."""
  wanted = []
  for index, case in enumerate(cases.cases_of(name, tiny)):
    for shape in case.shapes:
      wanted += [Variant(case, shape, each) for each in ("highest", "bfloat16", "cudnn")]
    first = case.shapes[0]
    if index == 0:
      full = (("remat", "full"),)
      wanted += [
        Variant(case, first, "default"),
        Variant(case, first, "highest", (("remat", "dots_no_batch"),)),
        Variant(case, first, "cudnn", full),
        Variant(case, first, "cudnn", (*full, ("unroll", True))),
        Variant(case, first, "highest", kind="LoRA"),
        Variant(case, first, "cudnn", kind="LoRA"),
      ]
    if index == 0 or getattr(case.config, "sliding_window", None):
      wanted += [Variant(case, first, each, kind="packed") for each in ("highest", "bfloat16")]
  return sorted(wanted, key=lambda variant: variant.arithmetic == "cudnn")


def program(
  variant: Variant,
) -> tuple[Callable[..., _Results], tuple[Params, Params | None, Batch]]:
  """Returns a variant's function, to be jitted, and its arguments."""
  batch: Batch = dict(cases.batch_of_case(variant.case, variant.shape))
  params = cases.params_of(variant.case.config)
  picked = cases.picked_of(variant.shape)
  if variant.kind == "packed":
    batch = dict(cases.packed(batch))
    picked = None
  frozen = None
  if variant.kind == "LoRA":
    frozen, params = _adapted(params)
  return functools.partial(_results, variant.config, picked), (params, frozen, batch)


def lowered(variant: Variant, *, for_cuda: bool = False) -> Any:
  """Returns a variant's lowered program: for the default device, or for CUDA without one."""
  function, arguments = program(variant)
  precision = "highest" if variant.arithmetic == "highest" else None
  with jax.default_matmul_precision(precision):
    traced = jax.jit(function).trace(*arguments)
    return traced.lower(lowering_platforms=("cuda",)) if for_cuda else traced.lower()


def _results(
  config: T5Config | LlamaConfig,
  picked: np.ndarray | None,
  trained: Params,
  frozen: Params | None,
  batch: Batch,
) -> _Results:
  """Returns the loss's sum, logits at picked positions, and the gradient of what is trained.

  That is all weights, or where there are frozen ones the adapters beside them.
  """

  def attach(trained: Params) -> Params:
    return trained if frozen is None else lora.attach(frozen, trained, _ADAPTER_SCALE)

  def loss_of(trained: Params) -> tuple[jax.Array, train_step.Scalars]:
    return train_step.loss_fn(attach(trained), config, batch)

  (loss, _), gradients = jax.value_and_grad(loss_of, has_aux=True)(trained)
  if picked is None:
    return loss, None, gradients
  family = families.of(config)
  params = attach(trained)
  hidden = family.hidden(params, config, batch)
  return loss, family.head(params, config, hidden[:, picked]), gradients


def _compiling(
  pool: concurrent.futures.Executor, wanted: list[Variant], options: dict[str, int]
) -> list[_Compiling]:
  """Returns each variant's program, which compiles beside the others, or why it cannot."""
  compiling: list[_Compiling] = []
  for variant in wanted:
    try:
      compiling.append(pool.submit(lowered(variant).compile, options))
    except _ERRORS as error:
      compiling.append(_first_line(error))
  return compiling


def _run(variant: Variant, compiling: _Compiling) -> _Results | str:
  """Returns a variant's results, or what it stopped with."""
  if isinstance(compiling, str):
    return compiling
  try:
    return jax.device_get(compiling.result()(*program(variant)[1]))
  except _ERRORS as error:
    return _first_line(error)


def _of_generating(future: concurrent.futures.Future[Check]) -> list[Check]:
  """Returns the check of greedy tokens, one that does not pass where they could not be made."""
  try:
    return [future.result()]
  except _ERRORS as error:
    return [Check(f"greedy tokens: {_first_line(error)}", float("inf"), 0.0)]


def _first_line(error: Exception) -> str:
  """Returns what an error says first: one program that fails leaves the others' results."""
  lines = str(error).strip().splitlines() or [""]
  return f"{type(error).__name__}: {lines[0][:200]}"


def _distances(
  variant: Variant, results: _Results, arrays: references.References
) -> dict[str, float]:
  """Returns how far the loss, the logits, and each gradient by name are from the reference."""
  loss, logits, gradients = results
  key = cases.key_of(variant.case, variant.shape)
  params = cases.params_of(variant.case.config)
  expected = references.gradients_of(arrays, variant.case, variant.shape, params)
  if variant.kind == "LoRA":
    expected = _adapters_gradients(expected, _adapted(params)[1])
  found = {"loss": cases.distance(loss, arrays[f"{key}/loss"])}
  if logits is not None:
    batch = cases.batch_of_case(variant.case, variant.shape)
    there = cases.is_compared(batch, variant.shape)
    found["logits"] = cases.distance(logits[there], arrays[f"{key}/logits"][there])
  return found | cases.distances(gradients, expected)


def _against_roundoff(variant: Variant, distances: dict[str, float]) -> list[Check]:
  """Returns the checks of a variant of XLA's: loss, logits, and the farthest gradient."""
  found = []
  for name, distance in _telling(distances, distances):
    times = _TIMES_ROUNDOFF["bfloat16" if variant.arithmetic == "cudnn" else variant.arithmetic]
    limit = times.get(name, times["gradient"]) * _ROUNDOFF[variant.arithmetic]
    found.append(Check(f"{variant.name}: {name}", distance, limit))
  return found


def _against_xla(
  variant: Variant, distances: dict[str, float], xla: dict[str, float]
) -> list[Check]:
  """Returns the checks of cuDNN's attention, in distances of XLA's bfloat16."""
  if variant.kind == "LoRA":
    # XLA's own distance of a weight's gradient stands for that of its adapters.
    xla = {name: xla[name.removesuffix("/a").removesuffix("/b")] for name in distances}
  times = {name: distance / max(xla[name], _LEAST_OF_XLA) for name, distance in distances.items()}
  return [
    Check(
      f"{variant.name}: {name}, in distances of XLA's ({distances[name]:.2g} against "
      f"{xla[name]:.2g})",
      ratio,
      _TIMES_XLA,
    )
    for name, ratio in _telling(times, distances)
  ]


def _telling(ranked: dict[str, float], distances: dict[str, float]) -> list[tuple[str, float]]:
  """Returns loss, logits, the position bias's gradients, and of the others the farthest."""
  shown = [name for name in ("loss", "logits") if name in distances]
  shown += [name for name in distances if name.endswith("relative_bias")]
  others = [name for name in distances if name not in shown]
  shown.append(max(others, key=lambda name: _for_max(ranked[name])))
  return [(name, ranked[name]) for name in shown]


def _for_max(distance: float) -> float:
  return float("inf") if np.isnan(distance) else distance


def _adapted(params: Params) -> tuple[Params, Params]:
  """Returns weights and adapters that together compute what the params do."""
  shapes = jax.eval_shape(lambda: lora.init(params, jax.random.key(0), _ADAPTER_RANK, _ADAPTED))
  random = np.random.default_rng(4)

  def weight(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
    size = leaf.shape[1] ** -0.5 if cases.name_of(path).endswith("a") else 0.5
    return (size * (2 * random.random(leaf.shape) - 1)).astype(np.float32)

  adapters = jax.tree_util.tree_map_with_path(weight, shapes)
  return _without(params, adapters), adapters


def _without(weights: Params, adapters: Params) -> Params:
  """Returns weights less the adapters' products, which are made in float64."""
  found = dict(weights)
  for name, adapter in adapters.items():
    if "a" not in adapter:
      found[name] = _without(weights[name], adapter)
      continue
    product = np.einsum("nir,nro->nio", *(adapter[each].astype(np.float64) for each in "ab"))
    found[name] = (weights[name] - _ADAPTER_SCALE * product).astype(np.float32)
  return found


def _adapters_gradients(weights: Params, adapters: Params) -> Params:
  """Returns the gradients of adapters from those of the weights, by the chain rule."""
  found: Params = {}
  for name, adapter in adapters.items():
    if "a" not in adapter:
      found[name] = _adapters_gradients(weights[name], adapter)
      continue
    wide = _ADAPTER_SCALE * np.asarray(weights[name], np.float64)
    found[name] = {
      "a": np.einsum("nio,nro->nir", wide, adapter["b"]),
      "b": np.einsum("nir,nio->nro", adapter["a"], wide),
    }
  return found


def _greedy(case: Case, arrays: references.References) -> Check:
  """Returns whether generating with a cache gives the reference's tokens where they are decided."""
  expected = arrays[f"{case.name}/tokens"]
  margins = arrays[f"{case.name}/margins"]
  with jax.default_matmul_precision("highest"):
    tokenizer: Any = None  # prompts are token ids already
    model = LoadedModel(cases.params_of(case.config), case.config, tokenizer)
    ends = (np.array([cases.END], np.int32), -1)
    prompts = cases.prompts_of(case)
    found, _ = sampling.sample(model, prompts, ends, max_length=cases.GENERATED)
  # A row is followed to its end, or to where two tokens are about as likely.
  decided = np.cumprod(margins > _MARGIN, axis=1).astype(bool)
  ended = np.cumsum(expected == cases.END, axis=1) - (expected == cases.END)
  expected = np.where(ended > 0, batches.ENDED, expected)
  wrong = int((found != expected)[decided].sum())
  words = f"greedy tokens that differ, of {decided.sum()} decided by over {_MARGIN:g}"
  return Check(f"{case.name}: {words}", wrong, 0)


def _told(checks: list[Check]) -> list[Check]:
  """Returns the checks, once the log has them: the process may be stopped before all are done."""
  for check in checks:
    words = f"{check.what}: {check.distance:.3g}, at most {check.limit:.3g}"
    print(words + ("" if check.passed else ": TOO FAR"), file=sys.stderr, flush=True)
  return checks
