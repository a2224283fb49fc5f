"""Hand-made attention files for the tests: random ones, and those of a workdir."""

import numpy as np

from factshock.diagnosis import attention_files

SHAPES = {"encoder": (3, 2), "cross": (2, 4), "self": (4, 3)}


def arrays(rng, facts=40, sites=("encoder", "cross"), shapes=SHAPES, unknown=(), mass=0.3):
  """What a file holds: attention around `mass` with a spread by head, NaN in the rows `unknown`."""
  tokens = rng.integers(8, 14, facts)
  found = {
    "subject": np.array([f"s{i}" for i in range(facts)]),
    "relation": np.array(["r", "q"])[np.arange(facts) % 2],
    "object": np.array([f"o{i % 7}" for i in range(facts)]),
    "popularity": rng.permutation(facts).astype(float),
    "subject_tokens": rng.integers(1, 4, facts),
    "tokens": tokens,
    "sites": np.array(sites),
  }
  for site in sites:
    size = (facts, *shapes[site])
    head_NxH = rng.normal(0, 0.1, shapes[site])
    found[f"{site}/mass"] = np.clip(mass + head_NxH + rng.normal(0, 0.05, size), 0, 1).astype(
      np.float32
    )
    found |= {
      f"{site}/{name}": rng.normal(0.2, 1, size).astype(np.float32)
      for name in attention_files.SITES[site][1:]
    }
    for name in attention_files.SITES[site]:
      found[f"{site}/{name}"][list(unknown)] = np.nan
  return found


def write(path, found):
  path.parent.mkdir(parents=True, exist_ok=True)
  np.savez(path, **found)
  return str(path)


def reordered(found, rows):
  """The same file with its facts in another order, or some of them."""
  return {name: array if name == "sites" else array[rows] for name, array in found.items()}


def moved(found, by, site="cross"):
  """The same file with other attention: `by` is added to the mass at a site, and kept within 0 and
  1.
  """
  return {**found, f"{site}/mass": np.clip(found[f"{site}/mass"] + np.float32(by), 0, 1)}
