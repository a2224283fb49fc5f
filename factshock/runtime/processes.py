"""Several processes that work as one: who they are, what they tell one another, and how the error of one ends all.

Words go through the coordination service that JAX starts in process 0; arrays do not (devices/partitioning.py). A process that is
alone needs none of it: every function here gives at once what it would give among several.
"""

import contextlib
import itertools
import json
import os
import sys
import threading
import time
from typing import NamedTuple

from absl import flags

from factshock.runtime.errors import UserError

HEARTBEAT = (
  30  # seconds after which a process that is not heard of counts as dead, and the others end
)
_FAILED = "factshock/failed"
_LOOK = 1.0  # seconds between two looks for the failure of another process
_SLICE = 1000  # milliseconds of one wait: signals are handled in between


class _Group(NamedTuple):
  client: object
  number: int
  count: int
  calls: object  # a counter: all processes make the same calls in the same order


_group = _Group(None, 0, 1, itertools.count())


def define_flags():
  """Defines the flags by which a verb joins other processes; `join` takes their values."""

  flags.DEFINE_bool(
    "distributed",
    False,
    "Work as one with other processes; who they are is found from SLURM, MPI, the TPU's metadata or the environment "
    "(JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID). They need a --workdir that all of them see.",
  )
  flags.DEFINE_string("coordinator", None, "The same, spelled out: HOST:PORT of process 0.")
  flags.DEFINE_integer(
    "processes", None, "With --coordinator: how many processes there are.", lower_bound=1
  )
  flags.DEFINE_integer(
    "process", None, "With --coordinator: the number of this one, from 0.", lower_bound=0
  )


def join(wait=300):
  """Joins the other processes, where the flags of `define_flags` ask for it; before JAX first touches a device.

  Process 0 alone speaks and writes from then on. Its `wait` is how many seconds the others have to come.

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
      f"expected --coordinator, --processes and --process together, got no {' and no '.join(missing)}"
    )
  if not missing:
    _start(values.coordinator, values.processes, values.process, wait)
  elif values.distributed:
    _start(None, _from_environment("JAX_NUM_PROCESSES"), _from_environment("JAX_PROCESS_ID"), wait)


def _from_environment(name):

  value = os.environ.get(name)
  if value is not None and not value.isdecimal():
    raise UserError(f"${name}: expected a whole number, got {value!r}")
  return value if value is None else int(value)


def _start(coordinator, processes, process, wait):
  import jax
  from jax._src import distributed

  global _group
  if process is not None and processes is not None and process >= processes:
    raise UserError(f"--process: expected a number below {processes}, got {process}")
  jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is heeded by interruption.py
  try:
    jax.distributed.initialize(
      coordinator,
      processes,
      process,
      local_device_ids=_all_devices(),
      initialization_timeout=wait,
      heartbeat_timeout_seconds=HEARTBEAT,
    )
  except (ValueError, RuntimeError) as error:
    raise UserError(
      f"the other processes were not found: {' '.join(str(error).split())}; are all of them started, and see the coordinator? "
      "--coordinator=HOST:PORT, --processes and --process say who they are"
    ) from error
  state = distributed.global_state
  if state.num_processes == 1:
    return
  _group = _Group(state.client, state.process_id, state.num_processes, itertools.count())
  threading.Thread(target=_watch, args=(_group,), daemon=True).start()
  if not is_first():
    print(f"process {process_index()} of {process_count()}: process 0 tells of the progress", flush=True)
    sys.stdout = open(os.devnull, "w", encoding="utf-8")


def _all_devices():
  """All GPUs of a node that SLURM gave to one process, of which JAX would take one; else None, JAX's own choice."""
  visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
  alone_on_its_node = "SLURM_NTASKS" in os.environ and os.environ["SLURM_NTASKS"] == os.environ.get(
    "SLURM_STEP_NUM_NODES"
  )
  return list(range(len(visible.split(",")))) if visible and alone_on_its_node else None


def process_count():
  """How many processes work as one."""
  return _group.count


def process_index():
  """The number of this process among them, from 0."""
  return _group.number


def is_first():
  """Whether this is the process that writes files, and speaks."""
  return _group.number == 0


def gather(value, what):
  """The values (JSON) of all processes, in their order; all wait for the last one.

  Args:
    what: name of what is gathered, the same in all processes: they must be at the same point.
  Raises:
    RuntimeError: they are not (a programmer's error).
  """
  if _group.count == 1:
    return [value]
  key = f"factshock/{next(_group.calls)}"
  _set(f"{key}/{_group.number}", [what, value])
  if is_first():
    pairs = [_get(f"{key}/{process}") for process in range(_group.count)]
    _set(f"{key}/all", pairs)
  else:
    pairs = _get(f"{key}/all")
  if len({name for name, _ in pairs}) > 1:
    raise RuntimeError(
      f"expected all processes at the same point, got {sorted({name for name, _ in pairs})}"
    )
  _forget_before(key)
  return [value for _, value in pairs]


def broadcast(ask, what):
  """What `ask()` (JSON) gives in process 0, which alone calls it: so all decide alike on what the disk says."""
  if _group.count == 1:
    return ask()
  key = f"factshock/{next(_group.calls)}/{what.replace('/', '.')}"
  if is_first():
    _set(key, ask())
  return _get(key)


def barrier(what):
  """Waits until all processes are here."""
  gather(None, what)


@contextlib.contextmanager
def first_process_first(what):
  """Context manager: process 0 goes through the block first, and the others when it has: what it writes is there for them."""
  if not is_first():
    barrier(what)
  yield
  if is_first():
    barrier(what)


def fail(message, code):
  """Ends all processes with the exit code, those others saying whose message ended them. Does nothing where there are none."""
  if _group.count == 1:
    return
  with contextlib.suppress(Exception):  # another one was first, or process 0 is gone
    _group.client.key_value_set(
      _FAILED, json.dumps({"process": _group.number, "message": message, "code": code})
    )
  _end(code)


def _watch(group):
  """Ends this process when another one has failed."""
  while True:
    time.sleep(_LOOK)
    try:
      failed = json.loads(group.client.key_value_try_get(_FAILED))
    except Exception:  # of several types: there is no such key, as it should be
      continue
    if failed["process"] != group.number:
      print(
        f"ended, as process {failed['process']} was: {failed['message']}",
        file=sys.stderr,
        flush=True,
      )
      _end(failed["code"])


def _end(code):
  """Ends this process at once; process 0, with which the service goes, when the others have seen why."""
  if is_first():
    time.sleep(4 * _LOOK)
  sys.stderr.flush()
  os._exit(code)


def _set(key, value):
  _group.client.key_value_set(key, json.dumps(value))


def _get(key):
  """Waits for a value; a process that dies ends the wait, as JAX then ends this one."""
  while True:
    try:
      return json.loads(_group.client.blocking_key_value_get(key, _SLICE))
    except Exception as error:
      if "DEADLINE_EXCEEDED" not in str(error):
        raise


def _forget_before(key):
  """Deletes the keys of the calls before, which all processes are through with."""
  root, call = key.rsplit("/", 1)
  if is_first() and int(call):
    _group.client.key_value_delete(f"{root}/{int(call) - 1}")
