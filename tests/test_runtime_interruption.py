"""A run that is asked to stop stops."""

import gc
import signal

import pytest

from factshock.runtime import interruption
from factshock.runtime.progress import Progress


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_in_a_callback_ends_the_run_all_the_same(capsys):
  def stop(phase, info):
    gc.callbacks.remove(stop)
    signal.raise_signal(signal.SIGINT)

  progress = Progress("asking", 3)
  with pytest.raises(interruption.Interrupted, match="SIGINT"), interruption.signals_end_run():
    gc.callbacks.append(stop)
    gc.collect()  # whose callbacks' exceptions Python drops
    progress.update(1)
    raise AssertionError("the run went on")
  with interruption.signals_end_run():
    progress.update(2)
