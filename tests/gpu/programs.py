"""The compiled programs of the full shapes, read without a GPU: memory, work, and what chokes one.

  PYTHONPATH=$PWD:$PWD/tests python -m gpu.programs [--only=REGEX] [--compiler=h100|cpu|none]
  [--output=runs/programs]

Everything comes from jax.eval_shape: nothing of a model is allocated. A program is traced as on an
H100, lowered for CUDA, and its jaxpr read (faults.py). "h100" compiles it by the compiler that runs
on one, from a description of the card (h100.txtpb): that takes no GPU, but JAX's packages for CUDA
(jax[cuda13]), and cuBLAS for all products, as nothing can be tried out here. "cpu" compiles by the
CPU's, whose scratch is an upper bound: it widens bfloat16 to float32, and has no cuDNN.
"""

import argparse
import contextlib
import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax._src.cudnn import fused_attention_stablehlo  # asks a GPU that is not there
from jax.experimental import topologies

from factshock.answering import ranking, sampling, tries
from factshock.models import families, fused, layers
from factshock.models.model_config import ModelConfig
from factshock.training import drivers, flops, train_step
from gpu import faults, shapes
from gpu.parts import train_step as train_steps

H100 = fused.Backend("gpu", (9, 0))
_CUDNN = 91000
DEVICE_BYTES = 80e9
_TARGET = pathlib.Path(__file__).with_name("h100.txtpb")
# Of generation and ranking: prompts at a time, their tokens, and those of an answer.
PROMPTS = 256
PROMPT_TOKENS = 40
ANSWER_TOKENS = 16
CANDIDATES = 200


@dataclasses.dataclass(frozen=True)
class Program:
  """Holds a program that is compiled as a whole.

  Attributes:
    name: what it does, of which model.
    batch: its shape as text.
    vocab_size: the model's.
    trace: traces it, inside `as_on_gpu`.
    needed: counts the FLOPs that it cannot do without; None where that is not known.
    options: of the compiler.
  """

  name: str
  batch: str
  vocab_size: int
  trace: Callable[[], Any]
  needed: Callable[[], int] | None = None
  options: Mapping[str, bool] = dataclasses.field(default_factory=dict)


@contextlib.contextmanager
def as_on_gpu() -> Iterator[None]:
  """Lets the package choose inside it what it would on an H100."""
  with (
    mock.patch.object(fused, "backend", lambda: H100),
    mock.patch.object(jax, "default_backend", lambda: "gpu"),
    mock.patch.object(fused_attention_stablehlo, "check_cudnn_version", lambda: _CUDNN),
    mock.patch.object(fused_attention_stablehlo, "check_compute_capability", _is_reached),
    mock.patch.object(
      fused_attention_stablehlo, "is_cuda_compute_capability_equal", lambda text: text == "9.0"
    ),
  ):
    yield


def _is_reached(capability: str) -> bool:
  """Returns whether an H100 has this compute capability."""
  return tuple(map(int, capability.split("."))) <= (9, 0)


def all_programs(tiny: bool = False) -> list[Program]:
  """Returns every program; with `tiny`, of the tiny models and batches."""
  programs = []
  for attention in ("cudnn", "xla"):
    for model, rows, trained in (
      (shapes.T5_LARGE, 64, "all"),
      (shapes.T5_XL, 32, "all"),
      (shapes.LLAMA_7B, 8, "all"),
      (shapes.LLAMA_7B, 16, "lora"),
    ):
      config = dataclasses.replace(shapes.config_of(model, tiny), attention=attention)
      name = f"{model}, train step of {trained}, {attention}"
      programs.append(_train_step(name, config, 2 if tiny else rows, trained, tiny))
  for model in (shapes.T5_LARGE, shapes.LLAMA_1B):
    programs += _generation(model, tiny)
    programs.append(_ranking(model, tiny))
  return programs


def _train_step(name: str, config: ModelConfig, rows: int, trained: str, tiny: bool) -> Program:
  """Returns a train step, of all weights or of adapters, as gpu.parts.train_step measures it."""
  loss, optimizer, init = train_steps.our_parts(config, trained)
  step = train_step.make_train_step(loss, optimizer)
  key = jax.eval_shape(lambda: jax.random.key(0))
  params, frozen = jax.eval_shape(init, key)
  state = jax.eval_shape(functools.partial(train_step.init_state, optimizer=optimizer), params)
  batch = jax.tree.map(_shape_of, train_steps.random_batch(config, rows, tiny))
  arguments = (state, batch, key) if frozen is None else (state, batch, key, frozen)
  lengths = [
    str(batch[field].shape[1]) for field in ("inputs", "targets", "tokens") if field in batch
  ]
  return Program(
    name,
    f"{rows} x {' + '.join(lengths)}",
    config.vocab_size,
    lambda: jax.jit(step, donate_argnums=0).trace(*arguments),
    needed=lambda: flops.model_flops(step, *arguments),
    options=drivers.GPU_OPTIONS,
  )


def _generation(model: str, tiny: bool) -> list[Program]:
  """Returns the two programs of greedy decoding: what reads prompts, and what goes on from them."""
  config = shapes.config_of(model, tiny)
  params = _params(config)
  rows = 4 if tiny else PROMPTS
  inputs = _ints(rows, 8 if tiny else PROMPT_TOKENS)
  begin = (params, config, ANSWER_TOKENS, inputs, _ints(rows), _ints(), None)

  def trace_begin() -> Any:
    return sampling._begin.trace(*begin)

  def trace_advance() -> Any:
    state = jax.eval_shape(
      lambda params, *others: sampling._begin(params, config, ANSWER_TOKENS, *others, None),
      params,
      *begin[3:6],
    )
    weights = jax.eval_shape(lambda params: sampling.unstack_layers(params, config), params)
    return sampling._advance.trace(
      params,
      config,
      False,
      weights,
      state,
      floor=_ints(),
      closing_E=_ints(3),
      opening=_ints(),
      temperature=_floats(),
      key=jax.eval_shape(lambda: jax.random.key(0)),
    )

  batch = f"{rows} x {PROMPT_TOKENS}"
  return [
    Program(f"{model}, reading prompts", batch, config.vocab_size, trace_begin),
    Program(f"{model}, decoding, a token", batch, config.vocab_size, trace_advance),
  ]


def _ranking(model: str, tiny: bool) -> Program:
  """Returns the program that scores candidates from the caches of prompts."""
  config = shapes.config_of(model, tiny)
  params = _params(config)
  trie = _trie(config, 8 if tiny else CANDIDATES)
  with as_on_gpu():
    rows = 4 if tiny else min(PROMPTS, ranking._most_queries([trie]))
    parts = ranking.count_parts(rows, 4 * trie.tokens_M.size * config.vocab_size, 1)
  inputs = _ints(rows, 8 if tiny else PROMPT_TOKENS)

  def trace() -> Any:
    cache, first = jax.eval_shape(
      lambda params, inputs: ranking.start(params, config, inputs), params, inputs
    )
    shared = jax.tree.map(_shape_of, trie._replace(members=()))
    return ranking._score.trace(params, config, parts, cache, first, _ints(2), shared)

  batch = f"{rows} x {trie.tokens_M.size} contexts in {parts} parts"
  return Program(f"{model}, ranking", batch, config.vocab_size, trace)


def _trie(config: ModelConfig, candidates: int) -> tries.Trie:
  """Returns the widest trie of random names of 1 to 6 tokens, some with the same first ones."""
  random = np.random.default_rng(0)
  sequences: set[tuple[int, ...]] = set()
  while len(sequences) < candidates:
    first = int(random.integers(2, 42))
    others = random.integers(50, config.vocab_size, random.integers(6)).tolist()
    sequences.add((first, *others))
  grown = tries.build(sorted(sequences), 1)
  return max(grown, key=lambda trie: trie.tokens_M.size)


def _params(config: ModelConfig) -> Any:
  """Returns the shapes of weights as answering places them."""

  def placed(key: jax.Array) -> Any:
    return layers.narrowed(families.of(config).init(config, key), config.dtype)

  return jax.eval_shape(placed, jax.eval_shape(lambda: jax.random.key(0)))


def _shape_of(array: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _ints(*shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.int32)


def _floats(*shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.float32)


@dataclasses.dataclass(frozen=True)
class Report:
  """Holds what was read of a program.

  Attributes:
    program: the program.
    made: FLOPs of its matrix products.
    needed: those that it cannot do without, or None.
    host: custom calls of the lowered program that go to the host.
    faults: what would choke a GPU.
    arguments: bytes of its arguments, or None where it was not compiled.
    scratch: bytes that it takes beside them, or None.
  """

  program: Program
  made: int
  needed: int | None
  host: list[str]
  faults: list[faults.Fault]
  arguments: int | None = None
  scratch: int | None = None


def report_of(program: Program, compiler: str) -> Report:
  """Reads a program.

  Args:
    program: the program.
    compiler: "h100", "cpu" or "none".
  """
  with as_on_gpu():
    traced = program.trace()
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
  targets = set(re.findall(r"custom_call @([\w$.]+)", text))
  report = Report(
    program,
    made=flops.count_flops(flops.without_dead_code(traced.jaxpr.jaxpr)),
    needed=None if program.needed is None else program.needed(),
    host=sorted(target for target in targets if "callback" in target or "host" in target.lower()),
    faults=faults.read(traced.jaxpr.jaxpr, program.vocab_size),
  )
  has_cudnn = any("cudnn" in target for target in targets)
  if compiler == "none" or (compiler == "cpu" and has_cudnn):
    return report
  memory = _compiled(traced, compiler, program.options).memory_analysis()
  return dataclasses.replace(
    report, arguments=memory.argument_size_in_bytes, scratch=memory.temp_size_in_bytes
  )


def _compiled(traced: Any, compiler: str, options: Mapping[str, bool]) -> Any:
  """Returns a program as compiled for an H100 that is not there, or for the CPU."""
  closed = traced.jaxpr
  sharding = None
  options = dict(options)
  if compiler == "h100":
    description = topologies.get_topology_desc(
      "h100", platform="cuda", target_config=_TARGET.read_text(), topology="1x1x1"
    )
    sharding = jax.sharding.SingleDeviceSharding(description.devices[0])
    options["xla_gpu_enable_triton_gemm"] = False
  leaves = jax.tree.leaves(traced.args_info)
  donated = tuple(index for index, leaf in enumerate(leaves) if leaf.donated)
  inputs = [
    jax.ShapeDtypeStruct(variable.aval.shape, variable.aval.dtype, sharding=sharding)
    for variable in closed.jaxpr.invars
  ]
  program = jax.jit(jax.extend.core.jaxpr_as_fun(closed), donate_argnums=donated)
  return program.trace(*inputs).lower().compile(compiler_options=options)


HEAD = (
  "| program | batch | TFLOP | needed | in float32 | arguments, GB | scratch, GB "
  "| fits 80 GB | found |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def line_of(report: Report) -> str:
  """Returns a report as a line of the table whose head is HEAD."""
  wide = sum(fault.flops for fault in report.faults if fault.kind == faults.FLOAT32_PRODUCT)
  found = [f"{fault.kind}: {fault.array} ({fault.line})" for fault in report.faults]
  found += [f"{faults.HOST}: {target}" for target in report.host]
  cells = [
    report.program.name,
    report.program.batch,
    f"{report.made / 1e12:.3g}",
    "" if report.needed is None else f"{report.needed / 1e12:.3g}",
    f"{wide / report.made:.1%}",
    *_memory_cells(report),
    "; ".join(found) or "nothing",
  ]
  return f"| {' | '.join(cells)} |"


def _memory_cells(report: Report) -> list[str]:
  """Returns the bytes of arguments and scratch, and whether both fit an H100."""
  if report.arguments is None or report.scratch is None:
    return ["", "", ""]
  fits = report.arguments + report.scratch < 0.92 * DEVICE_BYTES  # what JAX takes of the memory
  return [f"{report.arguments / 1e9:.1f}", f"{report.scratch / 1e9:.1f}", "yes" if fits else "no"]


def main() -> None:
  """Reads programs, prints the table and writes it to programs.md of the output's folder."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--only", default="", help="regular expression of names")
  parser.add_argument("--compiler", default="cpu", choices=("h100", "cpu", "none"))
  parser.add_argument("--output", default="runs/programs", type=pathlib.Path)
  parser.add_argument("--tiny", action="store_true")
  options = parser.parse_args()
  lines = HEAD.split("\n")
  print(HEAD, flush=True)
  for program in all_programs(options.tiny):
    if re.search(options.only, program.name):
      lines.append(line_of(report_of(program, options.compiler)))
      print(lines[-1], flush=True)
  options.output.mkdir(parents=True, exist_ok=True)
  (options.output / "programs.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()
