"""Strict settings for every test: 8 virtual CPU devices, rank promotion raises, own warnings are errors.

XLA compiles for tests without its last optimisations, and what is compiled is kept in .pytest_cache for all processes and for
the next run: most of a test's time is compilation.
"""

import os
import pathlib

_COMPILED = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "")
  + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


# The files that take longest: begun first, so that no process is left alone with one at the end.
_LONGEST = (
  "test_experiment",
  "test_own_facts",
  "test_training_train_step",
  "test_pretrained_models",
  "test_models_t5",
  "test_answering_decoder_only",
  "test_theory_probes",
  "test_models_lora",
  "test_answering_likelihoods",
)


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: item.path.stem not in _LONGEST)


@pytest.fixture(scope="session")
def data_dir():
  """The folder of real data, or a skip with a message where it is absent."""
  path = pathlib.Path(os.environ.get("FACTSHOCK_DATA", "../shared/data"))
  if not path.is_dir():
    pytest.skip(f"no real data at {path} (set FACTSHOCK_DATA)")
  return path
