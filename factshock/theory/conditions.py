"""Condition of the one-layer study: a world, how well it is stored, finetuning on each set."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from factshock.theory import measures, one_layer, training
from factshock.theory.worlds import World
from factshock.types import Array

SALIENCE_SETS = ("low_salience", "high_salience")
FIFTH = 0.2

Arrays: TypeAlias = dict[str, np.ndarray]  # by name


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of a condition.

  Attributes:
    cosine: between the embeddings of two subjects.
    question: cosine of a relation's token in questions and its token in pretraining.
    bins: parts of equal size that test subjects are cut into by popularity.
    learning_rate: of finetuning.
    steps: numbers of finetuning steps to measure at, rising.
  """

  cosine: float
  question: float
  bins: int
  learning_rate: float
  steps: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Facts:
  """Finetuning set of K seeds.

  Attributes:
    subjects_KxF: int32.
    weights_KxFxR: float32 weights of their facts, which add up to 1.
  """

  subjects_KxF: np.ndarray
  weights_KxFxR: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Condition:
  """Measures of a condition, as numpy arrays.

  Attributes:
    world: the facts.
    steps: numbers of finetuning steps.
    before: as from measures.before, [K, S, R].
    untouched: measures.on_test before finetuning, with E = 1.
    after: set -> measures.on_test at each of `steps`.
    w_kq: set -> W_KQ at the last step.
  """

  world: World
  steps: tuple[int, ...]
  before: Arrays
  untouched: Arrays
  after: dict[str, Arrays]
  w_kq: dict[str, Arrays]


def values_of(w_v: Mapping[str, Array], settings: Settings) -> tuple[Array, Array]:
  """Returns the values of subjects, and those of the relations' tokens in questions.

  A question's token phi(r') has the cosine `question` with the relation's token of pretraining; its
  other part W_V does not know, and with an entry of W_KQ for each relation as query it changes
  nothing else.

  Args:
    w_v: W_V of K seeds.
    settings: `cosine` and `question`.

  Returns:
    (v [K, S, A] of subjects, v [K, R, A] of relations).
  """
  v_KxSxA = training.over_seeds(
    lambda of_seed: one_layer.subject_values(of_seed, settings.cosine), w_v
  )
  return v_KxSxA, settings.question * w_v["relation"]


def facts_of(world: World) -> dict[str, Facts]:
  """Returns the sets of worlds.SETS, each fact with the same weight."""
  relations = world.answers_KxSxR.shape[2]
  return {name: _equal_weights(subjects, relations) for name, subjects in world.sets.items()}


def _equal_weights(subjects_KxF: np.ndarray, relations: int) -> Facts:
  weight = 1 / subjects_KxF[0].size / relations
  return Facts(subjects_KxF, np.full((*subjects_KxF.shape, relations), weight, np.float32))


def salience_sets(world: World, salience_KxSxR: np.ndarray) -> dict[str, Facts]:
  """Returns the fifths of each relation's pool of facts that are stored least, and best.

  Args:
    world: the facts.
    salience_KxSxR: how well each fact is stored.
  """
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


def sets_of(world: World, salience_KxSxR: np.ndarray) -> dict[str, Facts]:
  """Returns all finetuning sets of a world in which facts are stored so well, by name."""
  return {**facts_of(world), **salience_sets(world, salience_KxSxR)}


def run(
  world: World,
  w_v: Mapping[str, Array],
  settings: Settings,
  sets: Sequence[str] | None = None,
) -> Condition:
  """Returns the condition of a pretrained W_V.

  Args:
    world: the facts.
    w_v: W_V of K seeds.
    settings: of the condition.
    sets: names of the sets to finetune on; None: those of worlds.SETS and of SALIENCE_SETS.
  """
  v_KxSxA, v_KxRxA = values_of(w_v, settings)
  before = _as_numpy(measures.before(v_KxSxA, v_KxRxA, world.answers_KxSxR))
  answers = v_KxSxA.shape[-1]
  common_KxR = measures.common_answers(world.answers_KxSxR, world.counts_KxSxR, answers)
  facts = sets_of(world, before["salience"])
  v_KxTxA = _of_subjects(v_KxSxA, world.test_KxT)
  answers_KxTxR = _of_subjects(world.answers_KxSxR, world.test_KxT)

  def measure(w_kq: Mapping[str, Array]) -> Arrays:
    options = {"bins": settings.bins, "cosine": settings.cosine}
    arrays = measures.on_test(v_KxTxA, v_KxRxA, answers_KxTxR, common_KxR, w_kq, **options)
    return _as_numpy(arrays)

  after: dict[str, Arrays] = {}
  last: dict[str, Arrays] = {}
  for name in sets or facts:
    w_kq = _finetune(v_KxSxA, v_KxRxA, world.answers_KxSxR, facts[name], settings)
    after[name] = measure(w_kq)
    last[name] = {key: np.asarray(array[:, -1]) for key, array in w_kq.items()}
  untouched = measure(_zero_attention(*common_KxR.shape))
  return Condition(world, settings.steps, before, untouched, after, last)


def _zero_attention(seeds: int, relations: int) -> Arrays:
  """Returns the entries of W_KQ before finetuning: [K, 1, R]."""
  return {
    "shared": np.zeros((seeds, 1, relations), np.float32),
    "relation": np.zeros((seeds, 1, relations), np.float32),
  }


def _as_numpy(arrays: Mapping[str, Array]) -> Arrays:
  return {name: np.asarray(array) for name, array in arrays.items()}


def _of_subjects(array_KxSxN: Array, subjects_KxF: np.ndarray) -> np.ndarray:
  """Returns the rows of some subjects: [K, F, N]."""
  return np.take_along_axis(np.asarray(array_KxSxN), subjects_KxF[..., None], axis=1)


def _finetune(
  v_KxSxA: Array,
  v_KxRxA: Array,
  answers_KxSxR: Array,
  facts: Facts,
  settings: Settings,
) -> one_layer.KeyQuery:
  w_kq, losses = training.finetune(
    _of_subjects(v_KxSxA, facts.subjects_KxF),
    v_KxRxA,
    _of_subjects(answers_KxSxR, facts.subjects_KxF),
    facts.weights_KxFxR,
    ends=settings.steps,
    learning_rate=settings.learning_rate,
    cosine=settings.cosine,
  )
  training.check_finite(losses, "finetuning", settings.learning_rate)
  return w_kq


def attention_of_own(
  condition: Condition,
  name: str,
  cosine: float,
) -> np.ndarray:
  """Returns the mean attention to the subjects of a set's facts after finetuning on it: [K].

  Args:
    condition: of the study.
    name: of the set.
    cosine: between the embeddings of two subjects.
  """
  facts = sets_of(condition.world, condition.before["salience"])[name]
  of_set_KxFxR = _of_subjects(attention_of_facts(condition, name, cosine), facts.subjects_KxF)
  return (of_set_KxFxR * facts.weights_KxFxR).sum(axis=(1, 2))


def attention_of_facts(
  condition: Condition,
  name: str,
  cosine: float,
) -> np.ndarray:
  """Returns the attention to the subject of every fact after finetuning on a set: [K, S, R].

  Before it is 1/2.

  Args:
    condition: of the study.
    name: of the set.
    cosine: between the embeddings of two subjects.
  """
  world = condition.world
  w_kq = condition.w_kq[name]
  facts = sets_of(condition.world, condition.before["salience"])[name]
  own_KxSxR = np.zeros(world.answers_KxSxR.shape, np.float32)
  np.put_along_axis(own_KxSxR, facts.subjects_KxF[..., None], w_kq["subject"], axis=1)
  attention_KxSxR = training.over_seeds(
    lambda of_seed: one_layer.attention(of_seed, cosine), {**w_kq, "subject": own_KxSxR}
  )
  return np.asarray(attention_KxSxR)
