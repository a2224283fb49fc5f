"""Memory of a whole study of a model of SmolLM2's size, stage by stage, beside the dry run's.

  PYTHONPATH=.:tests/helpers python tests/benchmarks/memory.py [--arms=3] [--steps=3]

The model is a Llama of 135 million random numbers (30 layers, 576 wide, 49,152 tokens, embedding
and head tied) in a HuggingFace folder; the facts are of the synthetic world. Some arms finetune all
of it for a few steps of 8 rows of 32 tokens at most, one mixes its weights with those before at
several alphas, one averages them. For each part of a stage: what the process holds at its end and
the most it held on the way (VmRSS and VmHWM of /proc/self/status; Linux). At the end: the most of
all training, of all else, what an arm leaves on disk, and what `python -m factshock.train
--dry_run` says of the same training. Goals: training under 3.5 GB, the study under 4.5 GB, the dry
run within 20%. Time: about 5 minutes on 2 cores; 2 GB on disk.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time

import tables
from absl import flags

from factshock.runtime import console

ARMS = flags.DEFINE_integer("arms", 3, "arms that finetune", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 3, "steps of each", lower_bound=1)
SIZES = flags.DEFINE_enum("sizes", "smollm2", ["smollm2", "middle", "small"], "of the model")
DTYPE = flags.DEFINE_string("dtype", "float32", "of the computation")
EVERY = flags.DEFINE_integer("checkpoint_every", 1000, "steps between checkpoints", lower_bound=1)
KEEP = flags.DEFINE_bool("keep", False, "keeps the optimizer's state of finished arms")
LORA = flags.DEFINE_integer("lora", 0, "rank of adapters; 0 trains all weights")
FOLDER = flags.DEFINE_string("folder", None, "where model and study are written, and removed")
STUDY = flags.DEFINE_string("study", None, "a process of the benchmark: the folder")
PART = flags.DEFINE_enum("part", "run", ["write", "run", "dry_run"], "what that process does")
MODELS = {
  "smollm2": dict(layers=30, d_model=576, num_heads=9, num_kv_heads=3, d_ff=1536, vocab_size=49152),
  "middle": dict(layers=4, d_model=1024, num_heads=16, num_kv_heads=8, d_ff=4096, vocab_size=8192),
  "small": dict(layers=4, d_model=256, num_heads=4, num_kv_heads=2, d_ff=1024, vocab_size=8192),
}
GIGA = 1e9
GOALS = {"training": 3.5, "study": 4.5}


def status(name):
  """A value in bytes of /proc/self/status."""
  with open("/proc/self/status", encoding="utf-8") as file:
    found = [line.split()[1] for line in file if line.startswith(name + ":")]
  return int(found[0]) * 1024


class Trace:
  """Rows of (stage, part, seconds, held, most), and the most by kind of part."""

  def __init__(self):
    self.stage, self.rows, self.most = "start", [], {}
    self.began = time.monotonic()

  def mark(self, part):
    """Ends a part: notes what is held and was held at most since the part before."""
    now, peak = status("VmRSS"), status("VmHWM")
    seconds = time.monotonic() - self.began
    self.rows.append((self.stage, part, seconds, now, peak))
    print(f"  {self.stage}: {part} {now / GIGA:.2f} {peak / GIGA:.2f}", file=sys.stderr, flush=True)
    self.most[part] = max(self.most.get(part, 0), peak)
    with open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
      file.write("5")
    self.began = time.monotonic()

  def around(self, owner, name, part, before="between"):
    """Has a function of a module or class end a part before and after it."""
    function = getattr(owner, name)

    def traced(*args, **kwargs):
      self.mark(before)
      try:
        return function(*args, **kwargs)
      finally:
        self.mark(part)

    setattr(owner, name, traced)


def write_study(folder):
  """Writes model, tokenizer and facts; in a process of its own, as it takes memory."""
  import hf_tokenizers
  import jax

  from factshock.facts import relations, schema, world
  from factshock.models import decoder
  from factshock.models.formats import huggingface

  made = world.make_world(0, relations=3, subjects=60, answers=8, mean_mentions=3)
  schema.write_facts(os.path.join(folder, "facts.jsonl"), made.facts)
  relations.write_relations(os.path.join(folder, "relations.jsonl"), made.relations)
  with open(os.path.join(folder, "text.txt"), "w", encoding="utf-8") as file:
    file.writelines(sentence + "\n" for sentence in made.sentences)
  sizes = decoder.LlamaConfig(**MODELS[SIZES.value], d_kv=64, tie_head=True, max_length=2048)
  huggingface.save(os.path.join(folder, "model"), decoder.init(sizes, jax.random.key(0)), sizes)
  hf_tokenizers.llama_like(os.path.join(folder, "model"), lines=made.sentences, size=4000)


def config_of(folder):
  import ml_collections

  from factshock.configs import pretrained

  config = pretrained.get_config(os.path.join(folder, "model"))
  for name in ("facts", "relations"):
    config[name] = os.path.join(folder, f"{name}.jsonl")
  config.corpus = os.path.join(folder, "text.txt")
  config.model.dtype = DTYPE.value
  config.finetune.update(
    dict(
      steps=STEPS.value,
      batch_size=8,
      input_length=32,
      pack=False,
      warmup=1,
      eval_steps=(0, STEPS.value),
      log_every=1,
    )
  )
  config.finetune.update(dict(checkpoint_every=EVERY.value, lora_rank=LORA.value))
  config.mismatch.update(dict(size=30, low=0.3, high=0.5))
  config.split.update(dict(pool=0.7, development=0.1, test=0.2))
  config.mixing.alphas = (0.0, 0.3, 0.5, 0.7, 1.0)
  config.diagnosis.resamples = 200
  arms = {"zero_shot": dict(kind="prompted", prompt="question")}
  for number in range(ARMS.value):
    arms[f"tuned_{number}"] = dict(
      kind="finetune", facts=("high_mismatch", "low_mismatch", "balanced")[number % 3], order=number
    )
    if KEEP.value:
      arms[f"tuned_{number}"]["keep_optimizer"] = True
  arms["mixed"] = dict(kind="weight_mixing", of="tuned_0")
  if not LORA.value:
    arms["soup"] = dict(kind="soup", of_arms=tuple(f"tuned_{n}" for n in range(ARMS.value)))
  if ARMS.value < 2:
    del arms["soup"]
  config.arms = ml_collections.ConfigDict(arms, sort_keys=False)
  config.roles.update(dict(finetuned="tuned_0", remedies=("mixed",), ceiling=""))
  return config


def run_study(folder):
  """Runs the study of a folder, prints its trace and leaves the most in trace.json."""
  trace = Trace()
  from factshock.study import answers, pipeline, training, weights

  trace.mark("imports")
  run_stage = pipeline._run_stage

  def staged(seed, name, *rest):
    trace.mark("between")
    trace.stage = name
    run_stage(seed, name, *rest)
    trace.mark("end")

  pipeline._run_stage = staged
  trace.around(training, "train", "end of training")
  trace.around(answers, "answer", "answering", "training, or reading and mixing")
  trace.around(weights, "pretrained", "reading")
  with contextlib.redirect_stdout(sys.stderr):
    pipeline.run(config_of(folder), os.path.join(folder, "run"))
  trace.mark("report")
  tables.table(
    ["stage", "part", "s", "held at its end, GB", "most, GB"],
    [
      (stage, part, f"{seconds:.1f}", f"{held / GIGA:.2f}", f"{most / GIGA:.2f}")
      for stage, part, seconds, held, most in trace.rows
    ],
  )
  most = {
    "training": max(most for stage, _, _, _, most in trace.rows if stage.startswith("tuned")),
    "study": max(most for *_, most in trace.rows),
  }
  with open(os.path.join(folder, "trace.json"), "w", encoding="utf-8") as file:
    json.dump(most, file)


def dry_run(folder):
  """Prints what the dry run says of a training of the study."""
  from factshock.study import finetuning

  print("\n".join(line for line in finetuning.dry_run(config_of(folder)) if "memory" in line))


def size_of(folder):
  return sum(
    os.path.getsize(os.path.join(path, name))
    for path, _, names in os.walk(folder)
    for name in names
  )


def main(_):
  if STUDY.value:
    {"write": write_study, "run": run_study, "dry_run": dry_run}[PART.value](STUDY.value)
    return
  with tempfile.TemporaryDirectory(prefix="memory-", dir=FOLDER.value) as folder:

    def part(name):
      command = [sys.executable, *sys.argv, f"--study={folder}", f"--part={name}"]
      done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
      print(done.stdout, flush=True)
      return done.stdout

    part("write")
    part("run")
    said = float(re.search(r"of the process: ([\d.]+) GB", part("dry_run")).group(1))
    with open(os.path.join(folder, "trace.json"), encoding="utf-8") as file:
      most = {name: size / GIGA for name, size in json.load(file).items()}
    checkpoints = os.path.join(folder, "run", "checkpoints", "tuned_0")
    print(f"an arm leaves {size_of(checkpoints) / GIGA:.2f} GB of checkpoints\n", flush=True)
  for name, goal in GOALS.items():
    print(tables.goal(f"{name} under {goal} GB; {most[name]:.2f} GB here", most[name] < goal))
  off = said / most["training"] - 1
  print(tables.goal(f"the dry run within 20%; {off:+.0%} here", abs(off) < 0.2))


if __name__ == "__main__":
  console.run(main)
