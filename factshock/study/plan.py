"""What an experiment would take: stages, steps, tokens, memory and time; nothing of it is run.

Time is that of a few steps on this machine, of random weights and empty examples, and of the work
that each stage has beside them, as the running experiment estimates what is left.
"""

import dataclasses
import tempfile
import time
from collections.abc import Sequence

import jax
import numpy as np

from factshock.devices import host, partitioning
from factshock.models import families
from factshock.models.model_config import ModelConfig
from factshock.runtime.errors import UserError
from factshock.runtime.progress import format_duration
from factshock.runtime.workdir import Workdir
from factshock.study import checks, pipeline, pretraining_text, step_shapes, study_data
from factshock.study import config as configs
from factshock.study.arms import finetune, registry
from factshock.study.config import Config
from factshock.study.step_shapes import StepShapes
from factshock.training import drivers, dry_run
from factshock.training.settings import PretrainingConfig, TrainingConfig

_TIMED_STEPS = 3
# Of a question with its candidates: what stays to be read of them beside its prompt is little.
_QUESTION_TOKENS = 16
_ROOM = 0.8  # share of the free memory that a step may take to be timed


@dataclasses.dataclass(frozen=True)
class _Stage:
  """What a stage takes.

  Attributes:
    name: of the arm, or PRETRAINED.
    kind: of the arm.
    section: settings of its training; None where nothing is trained.
    rows: of a batch.
    points: how many predictions files it writes for each set of facts.
    work: what pipeline.Clock says of it.
  """

  name: str
  kind: str
  section: TrainingConfig | None
  rows: int
  points: int
  work: float

  @property
  def steps(self) -> int:
    """Returns the training steps."""
    return self.section.steps if self.section else 0

  @property
  def step_tokens(self) -> int:
    """Returns the tokens of a step's batch, where all rows are full."""
    if self.section is None:
      return 0
    return self.rows * (self.section.input_length + self.section.target_length)

  @property
  def tokens(self) -> int:
    """Returns the tokens of all steps."""
    return self.steps * self.step_tokens


def lines(config: Config) -> list[str]:
  """Returns lines that say what an experiment would take.

  Raises:
    UserError: a config that cannot be used.
  """
  checks.check(config)
  step_shapes.import_libraries(config)
  partitioning.use_cpu_devices(config.cpu_devices)
  mesh = partitioning.make_mesh(config.mesh.to_dict())
  checks.check_devices(config, mesh)
  asked, notes = _asked(config)
  stages = _stages(config, asked)
  seeds = configs.seeds(config)
  model_config = _model_config(config, mesh)
  largest = max((stage for stage in stages if stage.steps), key=_size, default=None)
  total = [
    *notes,
    f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} of {len(stages)} stages: "
    f"{len(seeds) * sum(stage.steps for stage in stages):,} training steps, at most "
    f"{len(seeds) * sum(stage.tokens for stage in stages):,} tokens trained on",
  ]
  if largest is None or largest.section is None:
    return [*_table(stages), *total, "nothing is trained: memory is that of asking the model"]
  shapes = step_shapes.of(model_config, largest.section, largest.rows)
  saves = largest.section.checkpoint_every < largest.steps
  memory_lines, needed = dry_run.memory(
    shapes.step_fn, shapes.state, shapes.batch, mesh, shapes.frozen, saves
  )
  total.append(f"memory of the largest step ({largest.name}):")
  total += [f"  {line}" for line in memory_lines]
  if mesh.devices.flat[0].platform == "cpu" and needed > _ROOM * host.free_memory_bytes():
    return [*_table(stages), *total, "time: unknown; a step needs more memory than is free here"]
  seconds = _step_seconds(config, model_config, shapes, mesh)
  duration = len(seeds) * seconds * sum(_steps_worth(stage, largest) for stage in stages)
  total.append(
    f"time: about {format_duration(duration)} on this machine, were it at nothing else; a step of "
    f"{largest.name} takes {seconds:.3g} s"
  )
  return [*_table(stages), *total]


def _asked(config: Config) -> tuple[int, list[str]]:
  """Returns how many facts a point of an arm asks, and notes on how that is known."""
  try:
    return study_data.examples_asked(config), []
  except UserError as error:
    note = f"facts cannot be read here, {pipeline.EXAMPLES_ASKED:,} asked a time are assumed"
    return pipeline.EXAMPLES_ASKED, [f"{note}: {error}"]


def _stages(config: Config, asked: int) -> list[_Stage]:
  """Returns the stages of one seed, in their order.

  Args:
    config: the experiment's.
    asked: how many facts a point of an arm asks.
  """
  clock = pipeline.Clock(config, [], asked)
  stages = []
  for name in pipeline.stage_names(config):
    work = clock.work(name)
    if name == pipeline.PRETRAINED:
      section = PretrainingConfig.of(config.pretrain)
      stages.append(_Stage(name, "pretraining", section, section.batch_size, 0, work))
      continue
    kind = registry.kind_of(config, name)
    points = len(registry.points(config, name))
    if not kind.trains:
      stages.append(_Stage(name, kind.name, None, 0, points, work))
      continue
    section = finetune.settings(config, name)
    rows = round(section.batch_size * (1 + config.arms[name].get("ratio", 0)))
    stages.append(_Stage(name, kind.name, section, rows, points, work))
  return stages


def _size(stage: _Stage) -> tuple[int, int]:
  """Returns what makes a step large: whether all weights are trained, and its tokens."""
  section = stage.section
  return int(section is not None and section.adapters is None), stage.step_tokens


def _steps_worth(stage: _Stage, timed: _Stage) -> float:
  """Returns how many steps of the timed stage take as long as a stage.

  A step takes as long as it has tokens; what is asked, as the clock of the experiment has it, in
  questions that take no more than a row of the step.
  """
  trained = stage.tokens / timed.step_tokens
  trained_work = 3.0 * stage.steps * stage.rows
  row_tokens = timed.step_tokens / timed.rows
  question = min(1.0, _QUESTION_TOKENS / row_tokens)
  return trained + question * (stage.work - trained_work) / (3.0 * timed.rows)


def _model_config(config: Config, mesh: jax.sharding.Mesh) -> ModelConfig:
  """Returns the model's config, with as many tokens as the tokenizer of the config will have."""
  platform = mesh.devices.flat[0].platform
  return families.from_section(config.model.to_dict(), _vocabulary(config), platform)


def _vocabulary(config: Config) -> int:
  """Returns how many tokens the tokenizer has that a model with vocab_size 0 takes."""
  if config.model.vocab_size:
    return 0
  if config.facts != "world":
    return config.tokenizer.size + config.tokenizer.sentinels
  with tempfile.TemporaryDirectory() as folder:
    seed = configs.seeds(config)[0]
    data = study_data.load(config, Workdir(folder), seed)
    return pretraining_text.tokenizer(config, data, folder).size


def _step_seconds(
  config: Config,
  model_config: ModelConfig,
  shapes: StepShapes,
  mesh: jax.sharding.Mesh,
) -> float:
  """Returns the seconds of a step, the median of a few."""
  driver = drivers.driver(mesh, config.parallel)
  params = jax.jit(lambda: families.of(model_config).init(model_config, jax.random.key(0)))()
  frozen = ()
  if shapes.frozen is not None:
    frozen = (driver.place(params),)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes.state["params"])
  state = drivers.init_state(params, shapes.optimizer, mesh, config.parallel)
  state = driver.place(state)
  step = driver.compile(shapes.step_fn, state, bool(frozen))
  batch = driver.shard({name: np.ones_like(array) for name, array in shapes.batch.items()})
  key = driver.place(jax.random.key(0))
  durations = []
  for _ in range(1 + _TIMED_STEPS):  # the first compiles
    began = time.monotonic()
    state, scalars = step(state, batch, key, *frozen)
    jax.block_until_ready((state, scalars))
    durations.append(time.monotonic() - began)
  return float(np.median(durations[1:]))


def _table(stages: Sequence[_Stage]) -> list[str]:
  """Returns a line for each stage."""
  width = max(len(stage.name) for stage in stages)
  kinds = max(len(stage.kind) for stage in stages)
  heads = f"{'stage':{width}}  {'kind':{kinds}}  {'steps':>7}  {'tokens':>13}  asked"
  rows = []
  for stage in stages:
    asked = f"{stage.points} time{'s' if stage.points != 1 else ''}" if stage.points else "-"
    steps = f"{stage.steps:,}" if stage.section else "-"
    tokens = f"{stage.tokens:,}" if stage.section else "-"
    rows.append(f"{stage.name:{width}}  {stage.kind:{kinds}}  {steps:>7}  {tokens:>13}  {asked}")
  return [heads, *rows]
