"""What the one-layer theory leaves out: several heads, more layers, all weights trained.

The same study in a small world.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from factshock.runtime.errors import UserError
from factshock.runtime.settings import INSIDE, setting
from factshock.theory import deep, training, worlds
from factshock.theory.estimates import SeedValues, estimate
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
  """A model and the arrays that its finetuning trains; pretraining trains W_V.

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
  """A variant in short, see hypotheses.Row; attention is the mean over layers and heads."""

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
  before_K, attention_K = measured["before"]
  popular_K, popular_attention_K = measured["popular"]
  unpopular_K, unpopular_attention_K = measured["unpopular"]
  changes: dict[str, SeedValues] = {
    "popular": estimate(popular_attention_K - attention_K),
    "unpopular": estimate(unpopular_attention_K - attention_K),
  }
  return {
    "title": variant.title,
    "before": estimate(before_K),
    "gap": estimate(popular_K - unpopular_K),
    "attention": changes,
  }


def _run(
  variant: Variant,
  world: World,
  seeds_K: np.ndarray,
  answers: int,
  pretraining: Pretraining,
  finetuning: Descent,
) -> dict[str, Any]:
  """Returns (accuracy, attention) [K] before finetuning and after each half, and all losses."""
  subjects, relations = world.answers_KxSxR.shape[1:]
  learning_rate = pretraining.learning_rate / variant.layers / variant.heads

  def one_seed(
    seed: jax.Array,
    answers_SxR: jax.Array,
    counts_SxR: jax.Array,
    test_T: jax.Array,
    popular_F: jax.Array,
    unpopular_F: jax.Array,
  ) -> dict[str, Any]:
    params = deep.init(
      jax.random.key(seed),
      subjects=subjects,
      relations=relations,
      answers=answers,
      dim=subjects + relations + answers,
      layers=variant.layers,
      heads=variant.heads,
      attention_scale=_SPREAD * (variant.layers * variant.heads > 1),
    )
    everyone = _queries(jnp.arange(subjects), answers_SxR)
    weights_N = (counts_SxR / counts_SxR.sum()).ravel()
    params, loss = deep.train(
      params,
      ("value",),
      *everyone,
      weights_N,
      steps=pretraining.steps,
      learning_rate=learning_rate,
      known=pretraining.known,
    )
    losses = [loss]
    test = _queries(test_T, answers_SxR)
    measured: dict[str, Any] = {}
    for name, facts_F in (("popular", popular_F), ("unpopular", unpopular_F)):
      tokens, gold = _queries(facts_F, answers_SxR)
      tuned, loss = deep.train(
        params,
        variant.finetuned,
        tokens,
        gold,
        jnp.full(gold.shape, 1 / gold.size),
        steps=finetuning.steps,
        learning_rate=finetuning.learning_rate,
      )
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


def _queries(subjects_F: jax.Array, answers_SxR: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns all facts of subjects: (tokens [F * R, 2], answers [F * R])."""
  subjects, relations = answers_SxR.shape
  relation_tokens_R = subjects + jnp.arange(relations)
  pairs = jnp.meshgrid(subjects_F, relation_tokens_R, indexing="ij")
  tokens_FxRx2 = jnp.stack(pairs, axis=-1)
  return tokens_FxRx2.reshape(-1, 2), answers_SxR[subjects_F].ravel()


def _measure(
  params: deep.Weights, tokens_Nx2: jax.Array, answers_N: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the share answered right, and the mean attention to the subject."""
  f_NxA, attention_NxLxH = deep.forward(params, tokens_Nx2)
  return (f_NxA.argmax(axis=-1) == answers_N).mean(), attention_NxLxH.mean()
