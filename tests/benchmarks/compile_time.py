"""Time to compile train steps of T5-xxl and Llama-7B on a CPU: layers scanned or unrolled.

  PYTHONPATH=. python tests/benchmarks/compile_time.py [--models=t5_xxl,llama_7b]
  [--trained=lora,all] [--limit=600]

The step is that of configs/t5_v1_1_xxl.py and configs/llama2_7b.py (32 rows of 128 + 40, or 128,
tokens; what `train --dry_run` compiles), with their adapters, and with all weights trained. Nothing
of the models is allocated. Each compilation is a process of its own, stopped after --limit seconds;
unrolled (config.model.unroll) is compiled with the configs' own adapters alone. The goal: under 60
s, scanned. What limits it is the number of operations given to the compiler, stated as lines of
StableHLO: those of
  a layer of
each stack scanned, of all layers unrolled.
Time: 3 minutes, and up to 4 more for the unrolled ones, which are stopped at the goal.
"""

import functools
import json
import os
import subprocess
import sys
import time

import tables
from absl import flags

from factshock.runtime import console

MODELS = flags.DEFINE_list("models", ["t5_xxl", "llama_7b"], "of t5_xxl and llama_7b")
TRAINED = flags.DEFINE_list("trained", ["lora", "all"], "adapters, and all weights")
LIMIT = flags.DEFINE_float("limit", 60.0, "seconds after which a compilation is stopped")
LAYERS = flags.DEFINE_integer("layers", 0, "layers, in place of the model's own, to try the script")
CASE = flags.DEFINE_list("case", [], "used by the benchmark itself: what a fresh process compiles")


def case_of(model, trained, unrolled):
  """(step, its arguments as shapes) of a config."""
  import jax
  import numpy as np

  from factshock.configs import llama2_7b, t5_v1_1_xxl
  from factshock.models import families, lora
  from factshock.study import training
  from factshock.training import train_step
  from factshock.training.settings import FinetuningConfig

  config = {"t5_xxl": t5_v1_1_xxl, "llama_7b": llama2_7b}[model].get_config()
  config.model.unroll = unrolled
  for name in ("layers", "encoder_layers", "decoder_layers"):
    if LAYERS.value and name in config.model:
      config.model[name] = LAYERS.value
  config.finetune.lora_rank *= trained == "lora"
  section = FinetuningConfig.of(config.finetune)
  sizes = families.from_section(config.model.to_dict(), 0)
  scale = section.adapters.scale if section.adapters else None
  step, optimizer = training.train_step(sizes, section.optimizer, section.accumulate, scale)
  key = jax.eval_shape(lambda: jax.random.key(0))
  params = jax.eval_shape(functools.partial(families.of(sizes).init, sizes), key)
  frozen = ()
  if section.lora_rank:
    adapters = functools.partial(lora.init, rank=section.lora_rank, targets=section.lora_targets)
    frozen, params = (params,), jax.eval_shape(adapters, params, key)
  state = jax.eval_shape(functools.partial(train_step.init_state, optimizer=optimizer), params)
  shape = lambda length, dtype: jax.ShapeDtypeStruct((section.batch_size, length), dtype)
  if model == "llama_7b":
    batch = {
      "tokens": shape(section.input_length, np.int32),
      "weights": shape(section.input_length, np.float32),
    }
  else:
    batch = {
      "inputs": shape(section.input_length, np.int32),
      "targets": shape(section.target_length, np.int32),
      "weights": shape(section.target_length, np.float32),
    }
  return step, (state, batch, key, *frozen)


def compile_here(model, trained, layers):
  """Compiles one case and prints seconds, lines of StableHLO and FLOPs as JSON."""
  import jax

  from factshock.devices import partitioning
  from factshock.training import flops

  partitioning.use_cpu_devices(1)
  step, arguments = case_of(model, trained, layers == "unrolled")
  marks = [time.perf_counter()]
  traced = jax.jit(step, donate_argnums=0).trace(*arguments)
  marks.append(time.perf_counter())
  lowered = traced.lower()
  marks.append(time.perf_counter())
  lowered.compile()
  marks.append(time.perf_counter())
  lines = lowered.as_text().count("\n")
  print(
    json.dumps(
      {
        "seconds": [after - before for before, after in zip(marks, marks[1:])],
        "lines": lines,
        "flops": flops.count_flops(flops.without_dead_code(traced.jaxpr.jaxpr)),
      }
    )
  )


def row(case):
  """A row of the table, and the seconds in all, None where it took too long."""
  print(f"  {', '.join(case)}", file=sys.stderr, flush=True)
  label = [case[0], {"lora": "adapters", "all": "all weights"}[case[1]], case[2]]
  command = [sys.executable, __file__, f"--case={','.join(case)}", f"--layers={LAYERS.value}"]
  try:
    done = subprocess.run(
      command,
      stdout=subprocess.PIPE,
      text=True,
      timeout=LIMIT.value,
      env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
  except subprocess.TimeoutExpired:
    return [*label, "", "", "", f"**over {LIMIT.value:.0f}**", "", ""], None
  if done.returncode:
    return [*label, "", "", "", f"failed with exit code {done.returncode}", "", ""], None
  found = json.loads(done.stdout.splitlines()[-1])
  seconds = sum(found["seconds"])
  return [
    *label,
    *(f"{part:.1f}" for part in found["seconds"]),
    f"**{seconds:.1f}**",
    f"{found['lines']:,}",
    f"{found['flops'] / 1e12:.3g}",
  ], seconds


def main(_):
  if CASE.value:
    return compile_here(*CASE.value)
  cases = [(model, trained, "scanned") for model in MODELS.value for trained in TRAINED.value]
  cases += [(model, TRAINED.value[0], "unrolled") for model in MODELS.value]
  found = {case: row(case) for case in cases}
  tables.table(
    [
      "model",
      "trained",
      "layers",
      "s to trace",
      "to lower",
      "to compile",
      "in all",
      "lines of StableHLO",
      "TFLOP a step",
    ],
    [line for line, _ in found.values()],
  )
  scanned = [seconds for case, (_, seconds) in found.items() if case[2] == "scanned"]
  words = f"; at most {max(scanned):.1f} s here" if all(scanned) else ""
  print(tables.goal(f"under 60 s, scanned{words}", all(scanned) and max(scanned) < 60))


if __name__ == "__main__":
  console.run(main)
