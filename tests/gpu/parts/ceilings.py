"""What the device reaches at all: a bfloat16 matrix product, and a copy in its memory.

Beside the vendor's numbers, by which shares and floors are computed.
"""

import jax
import jax.numpy as jnp

from gpu import machine
from gpu.results import Check, Speed


def measure(name: str, side: str, tiny: bool) -> Speed | list[Check]:
  """Returns the speed of a square product; the copy's rate is its note."""
  del name, side
  size = 256 if tiny else 8192
  x_MxM = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
  product = jax.jit(lambda x: x @ x)
  first = machine.timed(lambda: product(x_MxM).block_until_ready(), 1)[0]
  with machine.compilations() as compiled:
    median, least = machine.timed(lambda: product(x_MxM).block_until_ready(), 20)
  moved = (1 if tiny else 512) * 2**20
  y_N = jnp.ones(moved, jnp.float32)
  copy = jax.jit(lambda y: y + 1)
  copy(y_N).block_until_ready()
  copied, _ = machine.timed(lambda: copy(y_N).block_until_ready(), 10)
  return Speed(
    seconds=median,
    least=least,
    first=first,
    shape=f"{size} x {size} x {size}",
    amount=1,
    unit="products",
    flops=2 * size**3,
    bytes=3 * 2 * size**2,
    compiled=len(compiled),
    note=f"array + 1: {2 * 4 * moved / copied / 1e12:.2f} TB/s",
  )
