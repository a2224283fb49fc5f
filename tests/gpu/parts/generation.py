"""Greedy generation of short answers against transformers' `generate`.

bfloat16 weights and computation; weights and prompts random. 1,024 prompts of 8 to 40 tokens, 256
at a time, 16 new tokens each, as no token ends an answer. transformers takes the prompts in their
order and fills each batch up to its longest; factshock sorts them by length first, and runs all
steps of a batch in one loop on the device. A repeat is timed until all tokens are on the host;
padding counts, text does not. FLOPs and bytes are what real tokens need: each batch reads the
weights once for its prompts and once a new token, and the keys and values of all tokens before.

No published rate of vLLM was found for a model of 1 B parameters on an H100 or A100 (issue 9680 of
vllm-project/vllm asks for one). The nearest: about 12,500 tokens a second of Llama 3.1 8B in
bfloat16 on one H100, by www.morphllm.com/vllm-benchmarks (April 2026), which compiles measurements
of others and does not say how long prompts and answers were.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
from benchmarks import answering_tasks

from factshock.answering import sampling
from factshock.checkpoints.loading import LoadedModel
from factshock.models import families
from factshock.models.decoder import LlamaConfig
from factshock.models.t5 import T5Config
from gpu import answering_work, machine, shapes
from gpu.results import OURS, Speed

TO_TRY = {
  "FLOPs": "larger batches, whose products come nearer to the peak",
  "bytes": "weights of 8 bits",
  "neither": "the whole loop as one CUDA graph (XLA's command buffers with WHILE), as a step "
  "launches some hundred kernels and the host reads the loop's condition at every token; larger "
  "batches; one kernel for a step's attention",
}


@dataclasses.dataclass(frozen=True)
class Task:
  """Says what is generated."""

  prompts: int
  longest: int
  batch_size: int
  tokens: int


_TASK = Task(prompts=1024, longest=40, batch_size=256, tokens=16)
_TINY = Task(prompts=16, longest=12, batch_size=8, tokens=4)


def measure(name: str, side: str, tiny: bool) -> Speed:
  """Returns the speed of answering all prompts."""
  config = dataclasses.replace(shapes.config_of(name, tiny), param_dtype="bfloat16")
  task = _TINY if tiny else _TASK
  random = np.random.default_rng(0)
  prompts = answering_tasks.random_prompts(random, task.prompts, task.longest, config.vocab_size)
  if side == OURS:
    make = functools.partial(_our_runner, config, prompts, task)
  else:
    peers = importlib.import_module("gpu.answering_peers")
    device = machine.torch_device(tiny)
    make = functools.partial(peers.generator, config, prompts, task.batch_size, task.tokens, device)
  timing = machine.timing(make, side == OURS, repeats=10 if side == OURS else 4)
  lengths = sorted(map(len, prompts))
  batches = [
    lengths[begin : begin + task.batch_size] for begin in range(0, len(lengths), task.batch_size)
  ]
  work = answering_work.generation(config, batches, task.tokens)
  return Speed(
    **timing._asdict(),
    shape=f"{len(batches)} x {task.batch_size} prompts of 8 to {task.longest}, {task.tokens} new",
    amount=task.prompts,
    unit="answers",
    flops=work.flops,
    bytes=work.bytes,
  )


def _our_runner(
  config: T5Config | LlamaConfig, prompts: Sequence[Sequence[int]], task: Task
) -> Callable[[], np.ndarray]:
  """Returns a function that answers all prompts."""
  params = families.of(config).init(config, jax.random.key(0))
  model = LoadedModel(params, config, answering_tasks.Words(config.vocab_size, 0))
  no_ends = (np.zeros(0, np.int32), -1)

  def run() -> np.ndarray:
    tokens, _ = sampling.sample(
      model, prompts, no_ends, max_length=task.tokens, batch_size=task.batch_size
    )
    return tokens

  return run
