"""What the one-layer theory leaves out: the same study with several heads, more layers, or all weights trained, in a small world."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from factshock.runtime.errors import UserError
from factshock.theory import deep, training, worlds
from factshock.theory.estimates import estimate

_SPREAD = 1.0  # of W_KQ's first logits, where heads or layers have to differ


class Variant(NamedTuple):
  """A model and the arrays that its finetuning trains; pretraining trains W_V."""

  title: str
  layers: int = 1
  heads: int = 1
  finetuned: tuple = ("key_query",)


VARIANTS = {
  "one_layer": Variant("One layer, one head, W_KQ finetuned"),
  "all_weights": Variant(
    "All weights finetuned", finetuned=("embedding", "head", "value", "key_query")
  ),
  "four_heads": Variant("Four heads, W_KQ finetuned", heads=4),
  "two_layers": Variant("Two layers, W_KQ finetuned", layers=2),
}


def run(variant, sizes, seeds, pretraining, finetuning):
  """The row of a variant: dict of `title` and of estimates `before` and `gap` (accuracy on test subjects), and `attention`, dict set -> its
  change on test subjects' queries, mean over layers and heads.

  Args:
    sizes: of worlds.make.
    pretraining: dict of `learning_rate`, divided by heads and layers, which all write to the same logits, of `known`, the share of
      all facts with which it ends, so that models are compared that know as much, and of `steps`, after which it ends at any rate.
    finetuning: dict of steps and learning_rate.
  Raises: UserError where a loss is not finite.
  """
  world = worlds.make(sizes, seeds)
  found = jax.tree.map(
    np.asarray,
    _run(
      variant,
      world,
      np.asarray(seeds),
      sizes["answers"] * sizes["relations"],
      {
        **pretraining,
        "learning_rate": pretraining["learning_rate"] / variant.layers / variant.heads,
      },
      finetuning,
    ),
  )
  if not np.isfinite(found["losses"]).all():
    raise UserError(
      f"variant {variant.title!r}: a loss is not finite; choose learning rates below those of pretraining, "
      f"{pretraining['learning_rate']:g}, and finetuning, {finetuning['learning_rate']:g}"
    )
  (before_K, looked_K), popular, unpopular = found["before"], found["popular"], found["unpopular"]
  return {
    "title": variant.title,
    "before": estimate(before_K),
    "gap": estimate(popular[0] - unpopular[0]),
    "attention": {
      "popular": estimate(popular[1] - looked_K),
      "unpopular": estimate(unpopular[1] - looked_K),
    },
  }


def _run(variant, world, seeds_K, answers, pretraining, finetuning):
  subjects, relations = world.answers_KxSxR.shape[1:]

  def one(seed, answers_SxR, counts_SxR, test_T, popular_F, unpopular_F):
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
    params, *losses = deep.train(params, ("value",), *everyone, weights_N, **pretraining)
    test = _queries(test_T, answers_SxR)
    found = {}
    for name, facts in (("popular", popular_F), ("unpopular", unpopular_F)):
      tokens, gold = _queries(facts, answers_SxR)
      tuned, last = deep.train(
        params, variant.finetuned, tokens, gold, jnp.full(gold.shape, 1 / gold.size), **finetuning
      )
      found[name], losses = _measured(tuned, *test), [*losses, last]
    return {**found, "before": _measured(params, *test), "losses": jnp.stack(losses)}

  run = jax.jit(lambda *arrays: training.over_seeds(one, *arrays))
  return run(
    seeds_K,
    world.answers_KxSxR,
    world.counts_KxSxR,
    world.test_KxT,
    world.sets["popular"],
    world.sets["unpopular"],
  )


def _queries(subjects_F, answers_SxR):
  """All facts of subjects: (tokens [F * R, 2], answers [F * R])."""
  subjects, relations = answers_SxR.shape
  tokens_FxRx2 = jnp.stack(
    jnp.meshgrid(subjects_F, subjects + jnp.arange(relations), indexing="ij"), axis=-1
  )
  return tokens_FxRx2.reshape(-1, 2), answers_SxR[subjects_F].ravel()


def _measured(params, tokens_Nx2, answers_N):
  f_NxA, looked_NxLxH = deep.forward(params, tokens_Nx2)
  return (f_NxA.argmax(axis=-1) == answers_N).mean(), looked_NxLxH.mean()
