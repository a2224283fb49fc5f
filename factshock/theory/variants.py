"""Variants that the one-layer theory leaves out: several heads, more layers, all weights trained.

The same study in a small world.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from factshock.runtime.errors import UserError
from factshock.runtime.settings import INSIDE, setting
from factshock.theory import deep, training, worlds
from factshock.theory.estimates import estimate
from factshock.theory.hypotheses import Row
from factshock.theory.phases import Descent
from factshock.theory.worlds import Sizes, World

_SPREAD = 1.0  # of W_KQ's first logits, where heads or layers have to differ


@dataclasses.dataclass(frozen=True)
class Pretraining(Descent):
  """Settings of pretraining.

  It ends with the share `known` of all facts, so that models are compared that know as much, and at
  any rate after `steps`.

  Attributes:
    known: share of all facts with which it ends.
  """

  known: float = setting(INSIDE)


@dataclasses.dataclass(frozen=True)
class Variant:
  """Model, and the arrays that its finetuning trains; pretraining trains W_V.

  Attributes:
    title: its name in the report.
    layers: how many.
    heads: how many.
    finetuned: names of the arrays that finetuning trains.
  """

  title: str
  layers: int = 1
  heads: int = 1
  finetuned: tuple[str, ...] = ("key_query",)


VARIANTS = {
  "one_layer": Variant("One layer, one head, W_KQ finetuned"),
  "all_weights": Variant(
    "All weights finetuned", finetuned=("embedding", "head", "value", "key_query")
  ),
  "four_heads": Variant("Four heads, W_KQ finetuned", heads=4),
  "two_layers": Variant("Two layers, W_KQ finetuned", layers=2),
}


class VariantRow(Row):
  """Variant in short, see hypotheses.Row; attention is the mean over layers and heads."""

  title: str


def run(
  variant: Variant,
  sizes: Sizes,
  seeds: Sequence[int],
  pretraining: Pretraining,
  finetuning: Descent,
) -> VariantRow:
  """Returns the row of a variant: accuracy on test subjects and change of attention to them.

  Args:
    variant: the model.
    sizes: of the world.
    seeds: of worlds and models.
    pretraining: its learning rate is divided by heads and layers, which all write to the same
      logits.
    finetuning: of the arrays that the variant trains.

  Raises:
    UserError: a loss is not finite.
  """
  world = worlds.make(sizes, seeds)
  measured = jax.tree.map(
    np.asarray, _run(variant, world, np.asarray(seeds), sizes.all_answers, pretraining, finetuning)
  )
  if not np.isfinite(measured["losses"]).all():
    raise UserError(
      f"variant {variant.title!r}: a loss is not finite; choose learning rates below those of "
      f"pretraining, {pretraining.learning_rate:g}, and finetuning, {finetuning.learning_rate:g}"
    )
  return {"title": variant.title, **_row(measured)}


def _row(measured: Mapping[str, Any]) -> Row:
  before_K, attention_K = measured["before"]
  popular_K, popular_attention_K = measured["popular"]
  unpopular_K, unpopular_attention_K = measured["unpopular"]
  return {
    "before": estimate(before_K),
    "gap": estimate(popular_K - unpopular_K),
    "attention": {
      "popular": estimate(popular_attention_K - attention_K),
      "unpopular": estimate(unpopular_attention_K - attention_K),
    },
  }


@dataclasses.dataclass(frozen=True, eq=False)
class _SeedWorld:
  """Facts of one seed; see worlds.World."""

  answers_SxR: jax.Array
  counts_SxR: jax.Array
  test_T: jax.Array
  popular_F: jax.Array
  unpopular_F: jax.Array


def _run(
  variant: Variant,
  world: World,
  seeds_K: np.ndarray,
  answers: int,
  pretraining: Pretraining,
  finetuning: Descent,
) -> dict[str, Any]:
  """Returns (accuracy, attention) [K] before finetuning and after each half, and all losses."""

  def one_seed(seed: jax.Array, *facts: jax.Array) -> dict[str, Any]:
    of_seed = _SeedWorld(*facts)
    params = _random_params(variant, seed, of_seed.answers_SxR, answers)
    params, loss = _pretrain(variant, params, of_seed, pretraining)
    losses = [loss]
    test = _queries(of_seed.test_T, of_seed.answers_SxR)
    measured: dict[str, Any] = {}
    halves = {"popular": of_seed.popular_F, "unpopular": of_seed.unpopular_F}
    for name, subjects_F in halves.items():
      tuned, loss = _finetune(variant, params, of_seed, subjects_F, finetuning)
      measured[name] = _measure(tuned, *test)
      losses.append(loss)
    return {**measured, "before": _measure(params, *test), "losses": jnp.stack(losses)}

  over_seeds = jax.jit(lambda *arrays: training.over_seeds(one_seed, *arrays))
  return over_seeds(
    seeds_K,
    world.answers_KxSxR,
    world.counts_KxSxR,
    world.test_KxT,
    world.sets["popular"],
    world.sets["unpopular"],
  )


def _random_params(
  variant: Variant,
  seed: jax.Array,
  answers_SxR: jax.Array,
  answers: int,
) -> deep.Weights:
  subjects, relations = answers_SxR.shape
  return deep.init(
    jax.random.key(seed),
    subjects=subjects,
    relations=relations,
    answers=answers,
    dim=subjects + relations + answers,
    layers=variant.layers,
    heads=variant.heads,
    attention_scale=_SPREAD * (variant.layers * variant.heads > 1),
  )


def _pretrain(
  variant: Variant,
  params: deep.Weights,
  world: _SeedWorld,
  pretraining: Pretraining,
) -> tuple[deep.Weights, jax.Array]:
  """Returns the weights after pretraining W_V on all facts, and the last loss."""
  subjects = len(world.answers_SxR)
  tokens, gold = _queries(jnp.arange(subjects), world.answers_SxR)
  return deep.train(
    params,
    ("value",),
    tokens,
    gold,
    (world.counts_SxR / world.counts_SxR.sum()).ravel(),
    steps=pretraining.steps,
    learning_rate=pretraining.learning_rate / variant.layers / variant.heads,
    known=pretraining.known,
  )


def _finetune(
  variant: Variant,
  params: deep.Weights,
  world: _SeedWorld,
  subjects_F: jax.Array,
  finetuning: Descent,
) -> tuple[deep.Weights, jax.Array]:
  """Returns the weights after finetuning on the facts of some subjects, and the last loss."""
  tokens, gold = _queries(subjects_F, world.answers_SxR)
  return deep.train(
    params,
    variant.finetuned,
    tokens,
    gold,
    jnp.full(gold.shape, 1 / gold.size),
    steps=finetuning.steps,
    learning_rate=finetuning.learning_rate,
  )


def _queries(subjects_F: jax.Array, answers_SxR: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns all facts of subjects: (tokens [F * R, 2], answers [F * R])."""
  subjects, relations = answers_SxR.shape
  relation_tokens_R = subjects + jnp.arange(relations)
  pairs = jnp.meshgrid(subjects_F, relation_tokens_R, indexing="ij")
  tokens_FxRx2 = jnp.stack(pairs, axis=-1)
  return tokens_FxRx2.reshape(-1, 2), answers_SxR[subjects_F].ravel()


def _measure(
  params: deep.Weights,
  tokens_Nx2: jax.Array,
  answers_N: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Returns the share answered right, and the mean attention to the subject."""
  f_NxA, attention_NxLxH = deep.forward(params, tokens_Nx2)
  return (f_NxA.argmax(axis=-1) == answers_N).mean(), attention_NxLxH.mean()
