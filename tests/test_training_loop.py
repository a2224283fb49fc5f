"""The loop: exact resume, what it reports, what it refuses, and that it costs little."""

import json
import os
import shutil
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from factshock.checkpoints import manifest, store
from factshock.devices import host, partitioning
from factshock.runtime import interruption
from factshock.runtime.errors import UserError
from factshock.training import drivers, flops, loop, progress, saving
from factshock.training.metrics import Metrics, read_metrics

OPTIMIZER = optax.adamw(1e-2)
KEY = jax.random.key(7)


class Batches:
  """Batches that are a function of (seed, number), with the loader's interface."""

  def __init__(self, seed=0, rows=8, nan_at=None, end=None):
    self.seed, self.rows, self.nan_at, self.end, self.number = seed, rows, nan_at, end, 0
    self.seen = []

  def __iter__(self):
    return self

  def __next__(self):
    if self.number == self.end:
      raise StopIteration
    rng = np.random.default_rng((self.seed, self.number))
    self.seen.append(self.number)
    self.number += 1
    x = rng.normal(size=(self.rows, 3)).astype(np.float32)
    return {"x": x if self.number != self.nan_at else x * np.nan, "y": x.sum(axis=1)}

  def get_state(self):
    return {"number": self.number}

  def set_state(self, state):
    self.number = state["number"]


def train(state, step, batches, *, evaluate=None, eval_steps=(), checkpoint=None, **options):
  """Runs the loop; `checkpoint` is a Checkpointing or its first fields."""
  run = {name: options.pop(name) for name in ("steps", "key", "frozen") if name in options}
  if isinstance(checkpoint, tuple):
    checkpoint = saving.Checkpointing(*checkpoint)
  evaluation = loop.Evaluation(evaluate, eval_steps) if evaluate else None
  options = loop.Options(checkpoint=checkpoint, evaluation=evaluation, **options)
  return loop.train(state, step, batches, **run, options=options)


def init_state():
  params = {"dense": {"kernel": jnp.ones((3,)) * 0.1, "bias": jnp.zeros(())}}
  return {"params": params, "opt_state": OPTIMIZER.init(params), "step": jnp.zeros((), jnp.int32)}


def step_fn(state, batch, key):
  key = jax.random.fold_in(key, state["step"])

  def loss_fn(params):
    keep = jax.random.bernoulli(key, 0.9, batch["x"].shape)  # so that the step's key matters
    guess = jnp.where(keep, batch["x"], 0.0) @ params["dense"]["kernel"] + params["dense"]["bias"]
    return jnp.mean((guess - batch["y"]) ** 2)

  loss, gradients = jax.value_and_grad(loss_fn)(state["params"])
  updates, opt_state = OPTIMIZER.update(gradients, state["opt_state"], state["params"])
  metrics = {
    "loss": loss,
    "accuracy": loss * 0,
    "gradient_norm": optax.global_norm(gradients),
    "tokens": jnp.float32(batch["x"].size),
  }
  return {
    "params": optax.apply_updates(state["params"], updates),
    "opt_state": opt_state,
    "step": state["step"] + 1,
  }, metrics


def assert_same_bits(a, b):
  jax.tree.map(
    lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y), strict=True), a, b
  )


class Killed(Exception):
  pass


def kill_at(fatal):
  def evaluate(step, params):
    if step == fatal:
      raise Killed

  return evaluate


@pytest.mark.parametrize("devices", [None, 4])
def test_interrupted_and_resumed_gives_the_same_bits(tmp_path, devices):
  mesh = partitioning.make_mesh(devices=jax.devices()[:devices]) if devices else None
  whole = train(init_state(), step_fn, Batches(), steps=20, key=KEY, mesh=mesh)
  first, second = Batches(), Batches()
  options = dict(
    steps=20,
    key=KEY,
    mesh=mesh,
    eval_steps=[15],
    checkpoint=saving.Checkpointing(tmp_path / "run", 6),
  )
  with pytest.raises(Killed):
    train(init_state(), step_fn, first, evaluate=kill_at(15), **options)
  assert store.latest_step(tmp_path / "run") == 12
  resumed = train(init_state(), step_fn, second, **options)
  assert first.seen[:12] + second.seen == list(range(20))
  assert_same_bits(whole, resumed)
  assert jax.tree.structure(whole) == jax.tree.structure(resumed)


def test_a_finished_run_is_restored_without_training(tmp_path):
  options = dict(steps=5, key=KEY, checkpoint=(tmp_path / "run",))
  done = train(init_state(), step_fn, Batches(), **options)
  again = Batches()
  assert_same_bits(done, train(init_state(), step_fn, again, **options))
  assert not again.seen


def test_mesh_and_single_device_agree():
  mesh = partitioning.make_mesh()
  one = train(init_state(), step_fn, Batches(), steps=10, key=KEY)
  many = train(init_state(), step_fn, Batches(), steps=10, key=KEY, mesh=mesh)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=2e-5, atol=1e-7)
  assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(many))


@pytest.mark.parametrize("mesh", [None, partitioning.make_mesh()])
@pytest.mark.parametrize("placed", [False, True])
def test_evaluations_see_the_parameters_of_their_step_and_the_caller_keeps_its_state(mesh, placed):
  seen = {}
  state = partitioning.place_params(init_state(), mesh) if placed and mesh else init_state()
  final = train(
    state,
    step_fn,
    Batches(),
    steps=6,
    key=KEY,
    mesh=mesh,
    eval_steps=[0, 4, 6],
    evaluate=lambda step, params: seen.update({step: jax.device_get(params)}),
  )
  assert list(seen) == [0, 4, 6]
  assert_same_bits(seen[0], state["params"])
  assert_same_bits(seen[6], final["params"])
  assert_same_bits(seen[4], train(state, step_fn, Batches(), steps=4, key=KEY, mesh=mesh)["params"])


def test_a_loss_that_is_not_finite_stops_at_its_step_and_is_not_saved(tmp_path):
  with pytest.raises(UserError, match="loss of step 4 is nan"):
    train(
      init_state(), step_fn, Batches(nan_at=4), steps=9, key=KEY, checkpoint=(tmp_path / "run", 2)
    )
  assert store.latest_step(tmp_path / "run") == 2


def test_data_that_end_early_and_a_checkpoint_beyond_the_end_are_refused(tmp_path):
  with pytest.raises(UserError, match="data end before step 4"):
    train(init_state(), step_fn, Batches(end=3), steps=9, key=KEY)
  train(init_state(), step_fn, Batches(), steps=5, key=KEY, checkpoint=(tmp_path / "run",))
  with pytest.raises(UserError, match="at most 3 steps, got one of 5"):
    train(init_state(), step_fn, Batches(), steps=3, key=KEY, checkpoint=(tmp_path / "run",))


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
  train(init_state(), step_fn, Batches(), steps=2, key=KEY, checkpoint=(tmp_path / "run",))
  other = init_state()
  other["params"]["dense"]["kernel"] = jnp.ones((4,))
  with pytest.raises(
    UserError, match=r"another model: mis-shaped params/dense/kernel expected float32\[4\]"
  ):
    train(other, step_fn, Batches(), steps=4, key=KEY, checkpoint=(tmp_path / "run",))


def test_a_batch_the_mesh_cannot_share_is_refused():
  with pytest.raises(UserError, match="8 devices share evenly, got 6"):
    train(init_state(), step_fn, Batches(rows=6), steps=1, key=KEY, mesh=partitioning.make_mesh())


def test_a_checkpoint_needs_a_loader_with_state(tmp_path):
  with pytest.raises(ValueError, match="get_state"):
    train(init_state(), step_fn, iter([]), steps=1, key=KEY, checkpoint=(tmp_path,))


def test_the_step_is_compiled_once_for_all_calls():
  traces = []

  def counted(state, batch, key):
    traces.append(1)
    return step_fn(state, batch, key)

  for _ in range(3):
    train(init_state(), counted, Batches(), steps=3, key=KEY)
  assert len(traces) == 1


def test_products_are_counted_where_a_peak_is_known(tmp_path, monkeypatch):
  def rates_of(label):
    with Metrics(tmp_path / label) as metrics:
      train(
        init_state(),
        step_fn,
        Batches(),
        steps=3,
        key=KEY,
        label=label,
        log_every=3,
        metrics=metrics,
      )
    (entry,) = read_metrics(tmp_path / label / "metrics.jsonl")
    return {name for name in ("model_flops_per_second", "mfu") if entry.get(name, 0) > 0}

  assert rates_of("cpu") == set()
  monkeypatch.setattr(flops, "peak_flops", lambda device: 1e12)
  assert rates_of("other") == {"model_flops_per_second", "mfu"}


def test_what_was_let_go_of_is_compiled_again_and_gives_the_same_bits():
  traces = []

  def counted(state, batch, key):
    traces.append(1)
    return step_fn(state, batch, key)

  first = train(init_state(), counted, Batches(), steps=3, key=KEY)
  before = len(traces)
  drivers.forget_compiled()
  assert_same_bits(train(init_state(), counted, Batches(), steps=3, key=KEY), first)
  assert len(traces) > before


def test_metrics_of_a_resumed_run_have_every_step_once(tmp_path):
  options = dict(
    steps=12,
    key=KEY,
    label="finetune",
    log_every=2,
    eval_steps=[11],
    checkpoint=(tmp_path / "run", 4),
  )
  with Metrics(tmp_path) as metrics:
    metrics.write("pretrain", 50, {"loss": 1.0})
    with pytest.raises(Killed):
      train(init_state(), step_fn, Batches(), metrics=metrics, evaluate=kill_at(11), **options)
  with open(tmp_path / "metrics.jsonl", "a") as file:
    file.write(
      '{"label": "finetune", "step": 11, "lo'
    )  # what a kill in the middle of a line leaves
  with Metrics(tmp_path) as metrics:
    train(init_state(), step_fn, Batches(), metrics=metrics, **options)
  entries = read_metrics(tmp_path / "metrics.jsonl")
  assert [(entry["label"], entry["step"]) for entry in entries] == [("pretrain", 50)] + [
    ("finetune", step) for step in range(2, 13, 2)
  ]
  assert set(entries[-1]) >= {
    "loss",
    "accuracy",
    "gradient_norm",
    "tokens",
    "tokens_per_second",
    "time",
  }
  assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[1])["loss"] > 0


def test_tensorboard_files_hold_the_scalars(tmp_path):
  accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
  with Metrics(tmp_path) as metrics:
    metrics.write("a", 1, {"loss": 2.0})
    metrics.write("a", 2, {"loss": 1.5})
  events = accumulator.EventAccumulator(os.fspath(tmp_path / "tensorboard" / "a"))
  events.Reload()
  assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 2.0), (2, 1.5)]


def test_a_broken_metrics_line_is_named(tmp_path):
  (tmp_path / "metrics.jsonl").write_text("{oops\n{}\n")
  with pytest.raises(UserError, match="metrics.jsonl:1: expected a JSON object"):
    read_metrics(tmp_path / "metrics.jsonl")


def test_progress_says_loss_and_tokens_per_second(capsys, monkeypatch):
  original = progress.Progress
  monkeypatch.setattr(
    progress, "Progress", lambda *some, **more: original(*some, **more, every=0.0)
  )
  train(init_state(), step_fn, Batches(), steps=3, key=KEY, label="toy")
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 3
  assert "toy 1/3 33% (compiled; loss " in lines[0]
  assert "ETA" not in lines[0], "without a second step there is no rate"
  for word in ("toy 2/3 66%", "loss ", "accuracy ", "gradient ", "tokens/s in and out", "ETA"):
    assert word in lines[1]


def flip_a_bit(folder):
  path = folder / "params" / "dense.kernel" / "0"
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)


def cut_short(folder):
  path = folder / "opt_state" / "0.mu.dense.kernel" / "0"
  path.write_bytes(path.read_bytes()[:-4])


DAMAGE = {
  "a flipped bit": flip_a_bit,
  "a truncated file": cut_short,
  "missing files": lambda folder: shutil.rmtree(folder / "params"),
  "a broken manifest": lambda folder: (folder / manifest.NAME).write_text("{"),
  "unfinished": lambda folder: (folder / manifest.NAME).unlink(),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_serves(kind, tmp_path, capsys):
  whole = train(init_state(), step_fn, Batches(), steps=9, key=KEY)
  options = dict(key=KEY, checkpoint=saving.Checkpointing(tmp_path / "run", 2))
  train(init_state(), step_fn, Batches(), steps=6, **options)
  DAMAGE[kind](tmp_path / "run" / "6")
  again = Batches()
  resumed = train(init_state(), step_fn, again, steps=9, **options)
  assert again.seen == list(range(4, 9)) and (tmp_path / "run" / "damaged-6").is_dir()
  assert "set aside as" in (said := capsys.readouterr().out) and "going on from step 4" in said
  assert_same_bits(whole, resumed)


def test_damage_to_every_checkpoint_leads_back_to_the_start(tmp_path, capsys):
  options = dict(steps=4, key=KEY, checkpoint=saving.Checkpointing(tmp_path / "run", 2))
  whole = train(init_state(), step_fn, Batches(), **options)
  for step in ("2", "4"):
    flip_a_bit(tmp_path / "run" / step)
  assert_same_bits(whole, train(init_state(), step_fn, Batches(), **options))
  assert "going on from the start" in capsys.readouterr().out


@pytest.mark.parametrize("number", interruption.SIGNALS)
@pytest.mark.parametrize("during", ["a step", "an evaluation"])
def test_a_signal_saves_the_step_and_the_run_goes_on_from_it(number, during, tmp_path, capfd):
  evaluated = []

  def evaluate(step, params):
    if step == 5 and not evaluated:
      evaluated.append("asked")
      os.kill(os.getpid(), number)
      if during == "an evaluation":
        interruption.raise_if_requested()
    evaluated.append(step)

  options = dict(
    steps=9,
    key=KEY,
    eval_steps=[5],
    evaluate=evaluate,
    checkpoint=saving.Checkpointing(tmp_path / "run"),
  )
  before = signal.getsignal(number)
  with pytest.raises(interruption.Interrupted, match=number.name), interruption.signals_caught():
    train(init_state(), step_fn, Batches(), **options)
  assert (
    signal.getsignal(number) is before and "once more to stop at once" in capfd.readouterr().err
  )
  assert store.latest_step(tmp_path / "run") == 5
  again = Batches()
  resumed = train(init_state(), step_fn, again, **options)
  assert again.seen == [5, 6, 7, 8] and evaluated == [
    "asked",
    *([5] if during == "a step" else []),
    5,
  ]
  assert_same_bits(resumed, train(init_state(), step_fn, Batches(), steps=9, key=KEY))


def test_the_batch_of_a_loss_that_is_not_finite_is_kept(tmp_path):
  with pytest.raises(UserError, match=r"batch_of_step_4\.npz"):
    train(
      init_state(), step_fn, Batches(nan_at=4), steps=9, key=KEY, checkpoint=(tmp_path / "run", 2)
    )
  kept = np.load(tmp_path / "run" / "batch_of_step_4.npz")
  assert np.isnan(kept["x"]).any()


def test_data_that_are_late_are_spoken_of(monkeypatch, capsys):
  class Slow(Batches):
    def __next__(self):
      time.sleep(0.3 if len(self.seen) == 2 else 0)
      return super().__next__()

  monkeypatch.setattr(loop, "_LATE", 0.1)
  train(init_state(), step_fn, Slow(), steps=4, key=KEY)
  assert capsys.readouterr().out.count("waiting for the data of step 3") == 1


def test_training_goes_on_while_a_save_is_written(tmp_path, monkeypatch):
  """Steps 3 and 4 are taken before the save of step 2 is through, which keeps the weights of step
  2.
  """
  saved, passed, batches = store.save, threading.Event(), Batches()

  def slow(folder, step, **options):
    assert step != 2 or passed.wait(20), "training waited for the save"
    saved(folder, step, **options)

  def evaluate(step, params):
    assert store.latest_step(tmp_path / "run") is None
    passed.set()

  monkeypatch.setattr(store, "save", slow)
  train(
    init_state(),
    step_fn,
    batches,
    steps=6,
    key=KEY,
    checkpoint=(tmp_path / "run", 2, None, None),
    eval_steps=[3],
    evaluate=evaluate,
  )
  two = train(init_state(), step_fn, Batches(), steps=2, key=KEY)
  assert_same_bits(store.restore(tmp_path / "run", 2)["params"], two["params"])
  assert store.read_manifest(tmp_path / "run", 2)["loader_state"] == {"number": 2}


def test_without_memory_for_a_copy_training_waits_for_the_save(tmp_path, monkeypatch):
  monkeypatch.setattr(host, "free_memory_bytes", lambda: 0)
  threads, saved = [], store.save
  monkeypatch.setattr(
    store, "save", lambda *a, **k: (threads.append(threading.current_thread()), saved(*a, **k))
  )
  train(init_state(), step_fn, Batches(), steps=2, key=KEY, checkpoint=(tmp_path / "run",))
  assert threads == [threading.main_thread()] and store.latest_step(tmp_path / "run") == 2


def test_a_save_that_fails_behind_the_steps_ends_the_run(tmp_path, monkeypatch):
  saved = store.save

  def full(folder, step, **options):
    if step == 4:
      raise UserError("No space left on device; the last good checkpoint is step 2")
    saved(folder, step, **options)

  monkeypatch.setattr(store, "save", full)
  with pytest.raises(UserError, match="last good checkpoint is step 2"):
    train(init_state(), step_fn, Batches(), steps=9, key=KEY, checkpoint=(tmp_path / "run", 2))
  assert store.latest_step(tmp_path / "run") == 2


def test_a_trace_of_some_steps_is_written(tmp_path, capsys):
  train(
    init_state(),
    step_fn,
    Batches(),
    steps=9,
    key=KEY,
    profile=loop.Profile(str(tmp_path / "profile"), 3, 2),
  )
  assert "trace of 3 steps" in capsys.readouterr().out and list(
    (tmp_path / "profile").rglob("*.xplane.pb")
  )


def test_numbers_that_go_to_the_devices_unsaid_are_refused():
  """As a step that reads an array of the host at every call would be slow."""

  def compiled(*_):
    def step(state, batch, key):
      return state, {"loss": jax.numpy.float32(1) + np.ones(2)}

    step.lower = jax.jit(lambda *_: 0).lower
    return step

  with (
    pytest.raises(Exception, match="[Dd]isallowed host-to-device transfer"),
    pytest.MonkeyPatch.context() as patch,
  ):
    patch.setattr(drivers, "_jitted", compiled)
    train(init_state(), step_fn, Batches(), steps=2, key=KEY)
