"""What killed processes leave of folders and files is cleared; what living ones write is not."""

import fcntl
import json
import os
import socket
import time

import numpy as np
import pytest
import tiny

from factshock.checkpoints import store
from factshock.models.formats.huggingface import files as weight_files
from factshock.runtime import files, folders, locks
from factshock.runtime.workdir import Workdir
from factshock.study import ownership

PARAMS = {"kernel": np.ones((2, 3), np.float32)}


def leave(folder, name="12", pid=999999999, place=None):
  """Leaves what a process killed while it saved a step leaves; returns the folder's path."""
  temporary = folders.temporary_path(folder / name)
  os.makedirs(os.path.join(temporary, "params"))
  holder = {
    "host": socket.gethostname(),
    "pid": pid,
    "token": "a",
    "place": place or locks._place(),
  }
  with open(f"{temporary}.lock", "w") as file:
    json.dump(holder, file)
  return temporary


def set_age(path, seconds):
  then = time.time() - seconds
  os.utime(path, (then, then))


def test_the_next_save_removes_what_a_dead_writer_has_left(tmp_path):
  left = leave(tmp_path)
  store.save(tmp_path, 13, params=PARAMS)
  assert os.listdir(tmp_path) == ["13"] and not os.path.exists(f"{left}.lock")


def test_the_next_start_removes_it_too(tmp_path):
  leave(tmp_path)
  assert store.restore_newest(tmp_path) is None
  assert os.listdir(tmp_path) == []


def test_a_living_writer_keeps_its_folder(tmp_path):
  with weight_files.whole_folder(tmp_path / "model") as temporary:
    with open(os.path.join(temporary, "a"), "w") as file:
      file.write("a")
    store.save(tmp_path, 1, params=PARAMS)
    folders.remove_all_abandoned(tmp_path)
    assert os.listdir(temporary) == ["a"]
  assert sorted(os.listdir(tmp_path)) == ["1", "model"]


def test_a_writer_of_another_machine_is_dead_when_its_lock_is_no_longer_renewed(tmp_path):
  left = leave(tmp_path, pid=1, place="another")
  folders.remove_abandoned(tmp_path)
  assert os.path.exists(left)
  set_age(f"{left}.lock", locks.STALE_SECONDS + 5)
  folders.remove_abandoned(tmp_path)
  assert os.listdir(tmp_path) == []


def test_folders_without_a_lock_go_after_a_day_and_others_never(tmp_path):
  """Older versions took no locks; `.saving-money` is none of ours."""
  (tmp_path / ".saving-12-77").mkdir()
  (tmp_path / ".saving-money").mkdir()
  folders.remove_abandoned(tmp_path)
  assert len(os.listdir(tmp_path)) == 2
  for path in tmp_path.iterdir():
    set_age(path, 90000)
  folders.remove_abandoned(tmp_path)
  assert os.listdir(tmp_path) == [".saving-money"]


def test_an_error_while_a_folder_is_filled_leaves_nothing(tmp_path):
  with pytest.raises(KeyboardInterrupt):
    with weight_files.whole_folder(tmp_path / "model"):
      raise KeyboardInterrupt
  assert os.listdir(tmp_path) == []


def test_the_next_run_clears_a_workdir_of_leftovers(tmp_path):
  workdir = Workdir.of(tmp_path)
  with ownership.at_work(tiny.get_config(), workdir):
    pass
  checkpoints = tmp_path / "checkpoints" / "finetune" / "0"
  predictions = tmp_path / "predictions"
  checkpoints.mkdir(parents=True)
  predictions.mkdir()
  leave(checkpoints)
  for name in ("dead", "new", "written"):
    (predictions / f"{files.TEMPORARY}{name}").write_text("{")
  for name in ("dead", "written"):
    set_age(predictions / f"{files.TEMPORARY}{name}", locks.STALE_SECONDS + 5)
  with open(predictions / f"{files.TEMPORARY}written") as writer:
    fcntl.flock(writer, fcntl.LOCK_EX)
    with ownership.at_work(tiny.get_config(), workdir):
      assert os.listdir(checkpoints) == []
      assert sorted(os.listdir(predictions)) == [".writing-new", ".writing-written"]


def test_what_another_process_of_the_workdir_writes_is_left_to_it(tmp_path):
  workdir = Workdir.of(tmp_path)
  with ownership.at_work(tiny.get_config(), workdir):
    (tmp_path / ".writing-a").write_text("")
    set_age(tmp_path / ".writing-a", locks.STALE_SECONDS + 5)
    with ownership.at_work(tiny.get_config(), workdir):
      assert (tmp_path / ".writing-a").exists()
