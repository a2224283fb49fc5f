"""Several processes that work as one: who they are, what they exchange, and how an error ends all.

JSON values go through the coordination service that JAX starts in process 0; arrays do not
(devices/partitioning.py). A process that is alone needs none of it: every function here returns at
once what it would return among several.
"""

import contextlib
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar

from absl import flags

from factshock.runtime.errors import UserError

flags.disclaim_key_flags()  # --help of a verb lists the flags of define_flags among its own

# Seconds after which a process that is not heard of counts as dead, and the others end.
HEARTBEAT = 30
_FAILED = "factshock/failed"  # the key under which a process says that it failed
_LOOK_SECONDS = 1.0  # between two looks for the failure of another process
_WAIT_MILLISECONDS = 1000  # of one wait for a value: signals are handled in between

T = TypeVar("T")


class _Client(Protocol):
  """Stores texts by key for all processes: the client of JAX's coordination service."""

  def key_value_set(self, key: str, value: str) -> None: ...
  def key_value_try_get(self, key: str) -> str: ...
  def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str: ...
  def key_value_delete(self, key: str) -> None: ...


class _Group(NamedTuple):
  """Holds the processes that work as one, as this one sees them."""

  client: _Client | None  # None: this process is alone
  process: int  # the index of this process
  size: int
  calls: Iterator[int]  # a counter: all processes make the same calls in the same order


_group = _Group(None, 0, 1, itertools.count())


def define_flags() -> None:
  """Defines the flags by which a verb joins other processes; `join` reads their values."""
  flags.DEFINE_bool(
    "distributed",
    False,
    "Work as one with other processes; who they are is found from SLURM, MPI, the TPU's metadata "
    "or the environment (JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID). They need a "
    "--workdir that all of them see.",
  )
  flags.DEFINE_string("coordinator", None, "The same, spelled out: HOST:PORT of process 0.")
  flags.DEFINE_integer(
    "processes", None, "With --coordinator: how many processes there are.", lower_bound=1
  )
  flags.DEFINE_integer(
    "process", None, "With --coordinator: the number of this one, from 0.", lower_bound=0
  )


def join(wait: int = 300) -> None:
  """Joins the other processes, where the flags of `define_flags` ask for it.

  Must be called before JAX first touches a device. Process 0 alone prints and writes from then on.

  Args:
    wait: how many seconds process 0 waits for the others.

  Raises:
    UserError: flags that do not fit one another, or the others cannot be found.
  """
  values = flags.FLAGS
  given = {
    "--coordinator": values.coordinator,
    "--processes": values.processes,
    "--process": values.process,
  }
  missing = [name for name, value in given.items() if value is None]
  if missing and len(missing) < len(given):
    raise UserError(
      "expected --coordinator, --processes and --process together, "
      f"got no {' and no '.join(missing)}"
    )
  if not missing:
    _start(values.coordinator, values.processes, values.process, wait)
  elif values.distributed:
    count = _from_environment("JAX_NUM_PROCESSES")
    process = _from_environment("JAX_PROCESS_ID")
    _start(None, count, process, wait)


def _from_environment(name: str) -> int | None:
  """Returns the whole number in an environment variable, or None where it is not set."""
  value = os.environ.get(name)
  if value is None:
    return None
  if not value.isdecimal():
    raise UserError(f"${name}: expected a whole number, got {value!r}")
  return int(value)


def _start(
  coordinator: str | None,
  count: int | None,
  process: int | None,
  wait: int,
) -> None:
  """Starts JAX's coordination service; None stands for what JAX finds out by itself."""
  # Imported here as runtime is free of JAX: --help and the verbs without a model don't load it.
  import jax  # noqa: PLC0415
  from jax._src import distributed  # noqa: PLC0415

  global _group
  if process is not None and count is not None and process >= count:
    raise UserError(f"--process: expected a number below {count}, got {process}")
  # SIGTERM is handled by interruption.py.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(
      coordinator,
      count,
      process,
      local_device_ids=_all_devices(),
      initialization_timeout=wait,
      heartbeat_timeout_seconds=HEARTBEAT,
    )
  except (ValueError, RuntimeError) as error:
    raise UserError(
      f"the other processes were not found: {' '.join(str(error).split())}; are all of them "
      "started, and see the coordinator? --coordinator=HOST:PORT, --processes and --process name "
      "them"
    ) from error
  state = distributed.global_state
  if state.num_processes == 1:
    return
  _group = _Group(state.client, state.process_id, state.num_processes, itertools.count())
  threading.Thread(target=_watch, args=(_group,), daemon=True).start()
  if not is_first():
    _be_silent()


def _be_silent() -> None:
  """Drops what this process prints from here on: process 0 alone prints."""
  print(
    f"process {process_index()} of {process_count()}: process 0 prints the progress", flush=True
  )
  sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the end


def _all_devices() -> list[int] | None:
  """Returns all GPUs of a node that SLURM gave to one process; None: JAX's own choice.

  JAX would take one GPU a process.
  """
  visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
  tasks = os.environ.get("SLURM_NTASKS")
  is_alone_on_its_node = tasks is not None and tasks == os.environ.get("SLURM_STEP_NUM_NODES")
  if not visible or not is_alone_on_its_node:
    return None
  return list(range(len(visible.split(","))))


def process_count() -> int:
  """Returns how many processes work as one."""
  return _group.size


def process_index() -> int:
  """Returns the index of this process among them, from 0."""
  return _group.process


def is_first() -> bool:
  """Returns whether this is the process that writes files and prints."""
  return _group.process == 0


def gather(value: T, tag: str) -> list[T]:
  """Returns the values of all processes, in their order; all wait for the last one.

  Args:
    value: what JSON can hold.
    tag: name of what is gathered, the same in all processes: they must be at the same point.

  Raises:
    RuntimeError: they are not (a programmer's error).
  """
  if _group.size == 1:
    return [value]
  key = f"factshock/{next(_group.calls)}"
  _set(f"{key}/{_group.process}", [tag, value])
  if is_first():
    pairs = [_get(f"{key}/{process}") for process in range(_group.size)]
    _set(f"{key}/all", pairs)
  else:
    pairs = _get(f"{key}/all")
  tags = {name for name, _ in pairs}
  if len(tags) > 1:
    raise RuntimeError(f"expected all processes at the same point, got {sorted(tags)}")
  _forget_before(key)
  return [value for _, value in pairs]


def broadcast(compute: Callable[[], T], tag: str) -> T:
  """Calls `compute` in process 0 only and returns its value in every process.

  So all decide alike on what the disk holds.

  Args:
    compute: returns what JSON can hold.
    tag: name of what is computed, the same in all processes.
  """
  if _group.size == 1:
    return compute()
  key = f"factshock/{next(_group.calls)}/{tag.replace('/', '.')}"
  if is_first():
    _set(key, compute())
  return _get(key)


def barrier(tag: str) -> None:
  """Waits until all processes are here."""
  gather(None, tag)


@contextlib.contextmanager
def first_process_first(tag: str) -> Iterator[None]:
  """Lets process 0 go through the block first, and the others when it has.

  What process 0 writes inside is there for the others.
  """
  if not is_first():
    barrier(tag)
  yield
  if is_first():
    barrier(tag)


def end_all(message: str, code: int) -> None:
  """Ends all processes with an exit code; does nothing where this one is alone.

  Args:
    message: the other processes print it with the index of this one.
    code: the exit code of all.
  """
  if _group.size == 1:
    return
  failure = {"process": _group.process, "message": message, "code": code}
  with contextlib.suppress(Exception):  # another one was first, or process 0 is gone
    _client(_group).key_value_set(_FAILED, json.dumps(failure))
  _end(code)


def _watch(group: _Group) -> None:
  """Ends this process when another one has failed."""
  while True:
    time.sleep(_LOOK_SECONDS)
    try:
      failure = json.loads(_client(group).key_value_try_get(_FAILED))
    except Exception:  # noqa: BLE001 - of several types: there is no such key, as it should be
      continue
    if failure["process"] != group.process:
      print(
        f"ended, as process {failure['process']} was: {failure['message']}",
        file=sys.stderr,
        flush=True,
      )
      _end(failure["code"])


def _end(code: int) -> NoReturn:
  """Ends this process at once; process 0, with which the service goes, when the others saw why."""
  if is_first():
    time.sleep(4 * _LOOK_SECONDS)
  sys.stderr.flush()
  os._exit(code)


def _client(group: _Group) -> _Client:
  """Returns the client of a group of several processes."""
  if group.client is None:
    raise RuntimeError("a process that is alone has no values to exchange")
  return group.client


def _set(key: str, value: Any) -> None:
  """Stores a JSON value for all processes."""
  _client(_group).key_value_set(key, json.dumps(value))


def _get(key: str) -> Any:
  """Waits for a value; a process that dies ends the wait, as JAX then ends this one."""
  while True:
    try:
      return json.loads(_client(_group).blocking_key_value_get(key, _WAIT_MILLISECONDS))
    except Exception as error:
      if "DEADLINE_EXCEEDED" not in str(error):
        raise


def _forget_before(key: str) -> None:
  """Deletes the keys of the calls before, which all processes are through with."""
  root, call = key.rsplit("/", 1)
  if is_first() and int(call):
    _client(_group).key_value_delete(f"{root}/{int(call) - 1}")
