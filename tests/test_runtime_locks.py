"""Claims on work: one holder at a time, whoever dies."""

import concurrent.futures
import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from factshock.runtime import locks
from factshock.runtime.errors import UserError


def test_a_claim_has_one_holder_and_is_free_again_after_it(tmp_path):
  path = str(tmp_path / "claims" / "0.finetune")
  with locks.try_lock(path) as first:
    assert first and locks.is_locked(path)
    with locks.try_lock(path) as second:
      assert not second
    assert locks.is_locked(path), "whom it was refused did not remove it"
  assert not locks.is_locked(path) and os.listdir(tmp_path / "claims") == []
  with locks.try_lock(path) as again:
    assert again


def test_a_claim_is_given_up_where_the_work_fails(tmp_path):
  path = str(tmp_path / "claim")
  try:
    with locks.try_lock(path):
      raise ValueError
  except ValueError:
    pass
  assert not os.path.exists(path)


def test_the_claim_of_a_dead_process_is_taken_over_at_once(tmp_path):
  path = str(tmp_path / "claim")
  code = (
    f"from factshock.runtime import locks; import os, signal; mine = "
    f"locks.try_lock({path!r}); mine.__enter__(); os.kill(os.getpid(), signal.SIGKILL)"
  )
  subprocess.run([sys.executable, "-c", code])
  assert os.path.exists(path)
  with locks.try_lock(path) as ours:
    assert ours


def test_the_claim_of_another_host_is_stale_when_it_was_not_touched_for_long(tmp_path, monkeypatch):
  path = tmp_path / "claim"
  path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "x"}))
  with locks.try_lock(str(path)) as ours:
    assert not ours
  os.utime(path, (time.time() - locks.STALE_SECONDS - 5,) * 2)
  with locks.try_lock(str(path)) as ours:
    assert ours


def test_a_process_id_of_another_place_says_nothing(tmp_path):
  """Containers of one host name number their processes alike: 999999999 may live in another."""
  path = tmp_path / "claim"
  holder = {"host": socket.gethostname(), "pid": 999999999, "token": "x"}
  for place in ({}, {"place": f"{socket.gethostname()} boot pid:[1]"}):
    path.write_text(json.dumps({**holder, **place}))
    with locks.try_lock(str(path)) as ours:
      assert not ours
  path.write_text(json.dumps({**holder, "place": locks._place()}))
  with locks.try_lock(str(path)) as ours:
    assert ours


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"host": "a", "pid": "b", "token": "c"}'])
def test_a_claim_that_names_nobody_is_taken_over_after_a_moment(tmp_path, text):
  path = tmp_path / "claim"
  path.write_text(text)
  with locks.try_lock(str(path)) as ours:
    assert not ours
  os.utime(path, (time.time() - locks.EMPTY_SECONDS - 1,) * 2)
  with locks.try_lock(str(path)) as ours:
    assert ours


def test_a_claim_of_a_clock_a_day_ahead_is_stale_when_it_stays_as_it_is(tmp_path, monkeypatch):
  monkeypatch.setattr(locks, "STALE_SECONDS", 0.5)
  path = tmp_path / "claim"
  path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "x", "place": "y"}))
  ahead = time.time() + 86400
  for beat in range(4):  # alive: it changes, whatever the date
    os.utime(path, (ahead + beat,) * 2)
    assert locks.is_locked(str(path))
    time.sleep(0.2)
  assert locks.is_locked(str(path))
  time.sleep(0.6)
  assert not locks.is_locked(str(path))


def test_a_folder_in_place_of_a_claim_is_named(tmp_path):
  (tmp_path / "claim").mkdir()
  with pytest.raises(UserError, match="claim: expected a lock file, got a folder"):
    with locks.wait_for_lock(str(tmp_path / "claim")):
      pass


def test_nothing_is_left_of_a_claim_that_a_full_disk_refuses(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(locks.json, "dump", full)
  with pytest.raises(UserError, match="claim: the lock cannot be written: No space left"):
    with locks.try_lock(str(tmp_path / "claim")):
      pass
  assert os.listdir(tmp_path) == []


def test_a_holder_that_lost_its_claim_ends(tmp_path):
  path = tmp_path / "claim"
  code = (
    "import time; from factshock.runtime import locks; locks.BEAT_SECONDS = 0.05; "
    f"mine = locks.try_lock({str(path)!r}); mine.__enter__(); print(flush=True); time.sleep(60)"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )
  process.stdout.readline()
  other = {"host": "elsewhere", "pid": 1, "token": "x", "place": "y"}
  path.write_text(json.dumps(other))
  _, errors = process.communicate(timeout=30)
  assert process.returncode == locks.LOST_CODE
  assert "process 1 of elsewhere has taken over this lock" in errors and errors.count("\n") == 1
  assert json.loads(path.read_text()) == other


def test_a_holder_keeps_its_claim_alive(tmp_path, monkeypatch):
  monkeypatch.setattr(locks, "BEAT_SECONDS", 0.05)
  path = str(tmp_path / "claim")
  with locks.try_lock(path):
    os.utime(path, (0, 0))
    time.sleep(0.4)
    assert time.time() - os.stat(path).st_mtime < locks.STALE_SECONDS


def test_a_holder_that_was_overtaken_leaves_the_claim_to_the_other(tmp_path):
  path = tmp_path / "claim"
  other = {"host": "elsewhere", "pid": 1, "token": "x"}
  with locks.try_lock(str(path)):
    path.write_text(json.dumps(other))
  assert json.loads(path.read_text()) == other


def test_of_many_that_find_a_stale_claim_one_takes_it(tmp_path):
  for number in range(20):
    path = tmp_path / f"claim{number}"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "x"}))
    os.utime(path, (0, 0))

    tried = threading.Barrier(8)

    def attempt(_):
      with locks.try_lock(str(path)) as ours:
        tried.wait(timeout=60)  # nobody gives it up before all have tried
        return ours

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
      assert sum(pool.map(attempt, range(8))) == 1
    assert os.listdir(tmp_path) == []


def test_who_finds_a_takeover_just_ended_leaves_the_next_one_its_guard(tmp_path, monkeypatch):
  path = tmp_path / "claim"
  path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "x"}))
  os.utime(path, (0, 0))
  create, removed = locks._create, []

  def create_late(name, mine):
    if name.endswith(".takeover"):  # there was one, and it is gone before it is looked at
      raise FileExistsError(name)
    create(name, mine)

  monkeypatch.setattr(locks, "_create", create_late)
  monkeypatch.setattr(locks.os, "unlink", removed.append)
  assert not locks._take(str(path), {"host": "here", "pid": 1, "token": "y"})
  assert not [name for name in removed if name.endswith(".takeover")]


def test_a_lock_that_is_gone_is_neither_stale_nor_held(tmp_path):
  assert not locks._is_stale(str(tmp_path / "none"))
  assert not locks.is_locked(str(tmp_path / "none"))


def test_waiting_ends_when_the_holder_does(tmp_path, capsys):
  path = str(tmp_path / "claim")
  with concurrent.futures.ThreadPoolExecutor() as pool:
    with locks.try_lock(path):

      def hold():
        with locks.wait_for_lock(path, every=0.01, message="waiting"):
          return time.monotonic()

      found = pool.submit(hold)
      time.sleep(0.2)
      assert not found.done()
      freed = time.monotonic()
    assert found.result() >= freed
  assert capsys.readouterr().out.count("waiting") == 1


def test_a_lock_in_the_folder_at_hand_needs_no_other(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with locks.try_lock("here.lock") as is_ours:
    assert is_ours and locks.is_locked("here.lock")
