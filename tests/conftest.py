"""Strict settings for every test: 8 virtual CPU devices, rank promotion raises."""

import gc
import os
import pathlib

import programs

programs.share_compiled()
os.environ["XLA_FLAGS"] = programs.xla_flags() + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"

import jax  # noqa: E402  (reads the environment when it is imported)
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

_MOST_MAPS = 20_000

# The files that take longest: begun first, so that no process is left alone with one at the end.
_LONGEST = (
  "test_experiment",
  "test_own_facts",
  "test_training_train_step",
  "test_pretrained_models",
  "test_models_t5",
  "test_answering_decoder_only",
  "test_answering_probes",
  "test_models_lora",
  "test_answering_likelihoods",
)


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: item.path.stem not in _LONGEST)


def pytest_collection_finish():
  # Modules and what is compiled live on: searching them again and again took 6% of the time.
  gc.collect()
  gc.freeze()
  gc.set_threshold(100_000, 50, 50)


@pytest.fixture(scope="module", autouse=True)
def _few_programs():
  """Lets go of compiled programs after a file where there are many.

  Each is mapped into memory in several places, and Linux allows a process 65,530: beyond, XLA
  crashes.
  """
  yield
  maps = pathlib.Path("/proc/self/maps")
  if maps.exists() and len(maps.read_bytes().splitlines()) > _MOST_MAPS:
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def data_dir():
  """Returns the folder of real data, or skips with a message where it is absent."""
  path = pathlib.Path(os.environ.get("FACTSHOCK_DATA", "../shared/data"))
  if not path.is_dir():
    pytest.skip(f"no real data at {path} (set FACTSHOCK_DATA)")
  return path
