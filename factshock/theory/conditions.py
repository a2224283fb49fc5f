"""One condition of the one-layer study: a world, how well it is stored, and what finetuning on each set of facts makes of it."""

from typing import NamedTuple

import numpy as np

from factshock.theory import measures, one_layer, training, worlds

SALIENCE_SETS = ("low_salience", "high_salience")
FIFTH = 0.2


class Facts(NamedTuple):
  """A finetuning set of K seeds: int32 [K, F] subjects, and float32 [K, F, R] weights of their facts, which add up to 1."""

  subjects_KxF: np.ndarray
  weights_KxFxR: np.ndarray


class Condition(NamedTuple):
  """What was found, as numpy arrays.

  before: as from measures.before, [K, S, R]. untouched: measures.on_test before finetuning, with E = 1. after: dict set -> measures.on_test
  at each of `steps`. w_kq: dict set -> W_KQ at the last step.
  """

  world: worlds.World
  steps: tuple
  before: dict
  untouched: dict
  after: dict
  w_kq: dict


def values_of(w_v, config):
  """(v [K, S, A] of subjects, v [K, R, A] of the relations' tokens in questions) of W_V [K, ...].

  A question's token phi(r') has the cosine `question` with the relation's token of pretraining; its other part W_V does not know,
  and with an entry of W_KQ for each relation as query it changes nothing else.
  """
  v_KxSxA = training.over_seeds(lambda one: one_layer.subject_values(one, config["cosine"]), w_v)
  return v_KxSxA, config["question"] * w_v["relation"]


def facts_of(world):
  """The sets of worlds.SETS as Facts, each fact with the same weight: dict name -> Facts."""
  relations = world.answers_KxSxR.shape[2]
  return {
    name: Facts(
      subjects, np.full((*subjects.shape, relations), 1 / subjects[0].size / relations, np.float32)
    )
    for name, subjects in world.sets.items()
  }


def salience_sets(world, salience_KxSxR):
  """The fifth of the pool's facts of each relation that are stored least, and that stored best: dict of SALIENCE_SETS -> Facts."""
  subjects = world.sets["whole"]
  of_pool_KxFxR = np.take_along_axis(np.asarray(salience_KxSxR), subjects[..., None], axis=1)
  rank_KxFxR = of_pool_KxFxR.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
  size = max(1, round(FIFTH * subjects.shape[1]))
  chosen = {
    "low_salience": rank_KxFxR < size,
    "high_salience": rank_KxFxR >= subjects.shape[1] - size,
  }
  return {
    name: Facts(subjects, (mask / size / mask.shape[2]).astype(np.float32))
    for name, mask in chosen.items()
  }


def sets_of(world, salience_KxSxR):
  """All finetuning sets of a world in which facts are stored so well: dict name -> Facts."""
  return {**facts_of(world), **salience_sets(world, salience_KxSxR)}


def run(world, w_v, config, sets=None):
  """The Condition of a pretrained W_V [K, ...].

  Args:
    config: dict of `cosine`, `question`, `bins`, `learning_rate` and `steps`, the numbers of finetuning steps to measure at.
    sets: names of the sets to finetune on; None: those of worlds.SETS and of SALIENCE_SETS.
  """
  v_KxSxA, v_KxRxA = values_of(w_v, config)
  before = {
    name: np.asarray(found)
    for name, found in measures.before(v_KxSxA, v_KxRxA, world.answers_KxSxR).items()
  }
  common_KxR = measures.common_answers(world.answers_KxSxR, world.counts_KxSxR, v_KxSxA.shape[-1])
  facts = sets_of(world, before["salience"])
  of_test = [
    np.take_along_axis(np.asarray(array), world.test_KxT[..., None], axis=1)
    for array in (v_KxSxA, world.answers_KxSxR)
  ]

  def measured(w_kq):
    found = measures.on_test(
      of_test[0],
      v_KxRxA,
      of_test[1],
      common_KxR,
      w_kq,
      bins=config["bins"],
      cosine=config["cosine"],
    )
    return {name: np.asarray(array) for name, array in found.items()}

  seeds, relations = common_KxR.shape
  zero = {
    "shared": np.zeros((seeds, 1, relations), np.float32),
    "relation": np.zeros((seeds, 1, relations), np.float32),
  }
  after = {}
  last = {}
  for name in sets or facts:
    w_kq = _finetuned(v_KxSxA, v_KxRxA, world.answers_KxSxR, facts[name], config)
    after[name], last[name] = (
      measured(w_kq),
      {key: np.asarray(array[:, -1]) for key, array in w_kq.items()},
    )
  return Condition(world, tuple(config["steps"]), before, measured(zero), after, last)


def _finetuned(v_KxSxA, v_KxRxA, answers_KxSxR, facts, config):
  of_set = [
    np.take_along_axis(np.asarray(array), facts.subjects_KxF[..., None], axis=1)
    for array in (v_KxSxA, answers_KxSxR)
  ]
  w_kq, losses = training.finetune(
    of_set[0],
    v_KxRxA,
    of_set[1],
    facts.weights_KxFxR,
    ends=tuple(config["steps"]),
    learning_rate=config["learning_rate"],
    cosine=config["cosine"],
  )
  training.check_finite(losses, "finetuning", config["learning_rate"])
  return w_kq


def attention_of_own(condition, name, cosine):
  """Mean attention to the subject of the facts of a set after finetuning on it: [K]."""
  facts = sets_of(condition.world, condition.before["salience"])[name]
  of_set = np.take_along_axis(
    attention_of_facts(condition, name, cosine), facts.subjects_KxF[..., None], axis=1
  )
  return (of_set * facts.weights_KxFxR).sum(axis=(1, 2))


def attention_of_facts(condition, name, cosine):
  """Attention to the subject of every fact after finetuning on a set: [K, S, R]; before it is 1/2."""
  world = condition.world
  w_kq = condition.w_kq[name]
  facts = sets_of(condition.world, condition.before["salience"])[name]
  own_KxSxR = np.zeros(world.answers_KxSxR.shape, np.float32)
  np.put_along_axis(own_KxSxR, facts.subjects_KxF[..., None], w_kq["subject"], axis=1)
  return np.asarray(
    training.over_seeds(
      lambda one: one_layer.attention(one, cosine), {**w_kq, "subject": own_KxSxR}
    )
  )
