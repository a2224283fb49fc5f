"""The one-layer transformer of arXiv 2406.14785: its gradient, its salience in closed form, and the
same model with explicit matrices.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from factshock.theory import deep, one_layer, training, worlds

SIZES = worlds.Sizes(
  subjects=24, relations=3, answers=4, zipf=1.0, answer_zipf=1.0, sentences=2000, test=0.5
)
ANSWERS = SIZES.relations * SIZES.answers


@pytest.fixture(scope="module")
def world():
  return worlds.make(SIZES, [0, 1])


def random_model(seed, dtype=np.float64):
  rng = np.random.default_rng(seed)
  subjects, relations = 7, 3
  return (
    (3 * rng.normal(size=(subjects, ANSWERS))).astype(dtype),
    (3 * rng.normal(size=(relations, ANSWERS))).astype(dtype),
    rng.uniform(0.05, 0.95, (subjects, relations)).astype(dtype),
    rng.integers(0, ANSWERS, (subjects, relations)),
  )


def loss_of_logits(z_SxR, v_SxA, v_RxA, answers_SxR):
  """The sum of the losses of facts by the attention logits of their subjects, those of the
  relations being 0.
  """
  ones = jnp.ones(z_SxR.shape, z_SxR.dtype)
  return one_layer.loss(one_layer.logits(v_SxA, v_RxA, jax.nn.sigmoid(z_SxR)), answers_SxR, ones)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_the_closed_form_of_the_attention_gradient_is_that_of_autodiff(seed):
  with jax.enable_x64(True):
    v_SxA, v_RxA, a_SxR, answers_SxR = random_model(seed)
    z_SxR = np.log(a_SxR / (1 - a_SxR))
    found = one_layer.attention_gradient(v_SxA, v_RxA, a_SxR, answers_SxR)
    np.testing.assert_allclose(
      found, jax.grad(loss_of_logits)(z_SxR, v_SxA, v_RxA, answers_SxR), rtol=1e-9, atol=1e-12
    )


def test_the_closed_form_of_the_attention_gradient_is_that_of_finite_differences():
  with jax.enable_x64(True):
    v_SxA, v_RxA, a_SxR, answers_SxR = random_model(0)
    z_SxR, step = np.log(a_SxR / (1 - a_SxR)), 1e-5
    found = one_layer.attention_gradient(v_SxA, v_RxA, a_SxR, answers_SxR)
    for place in np.ndindex(z_SxR.shape):
      moved = np.zeros_like(z_SxR)
      moved[place] = step
      slope = (
        (
          loss_of_logits(z_SxR + moved, v_SxA, v_RxA, answers_SxR)
          - loss_of_logits(z_SxR - moved, v_SxA, v_RxA, answers_SxR)
        )
        / step
        / 2
      )
      assert slope == pytest.approx(float(found[place]), abs=1e-8)


def test_the_closed_form_moves_the_relation_s_logit_the_other_way():
  v_SxA, v_RxA, a_SxR, answers_SxR = random_model(3, np.float32)
  weights = jax.tree.map(
    jnp.asarray, {**one_layer.zero_attention(*a_SxR.shape), "subject": np.log(a_SxR / (1 - a_SxR))}
  )
  ones = np.ones(a_SxR.shape, np.float32)
  by_relation_R = jax.grad(
    lambda w: one_layer.loss(
      one_layer.logits(v_SxA, v_RxA, one_layer.attention(w)), answers_SxR, ones
    )
  )(weights)["relation"]
  np.testing.assert_allclose(
    by_relation_R,
    -one_layer.attention_gradient(v_SxA, v_RxA, a_SxR, answers_SxR).sum(axis=0),
    rtol=1e-4,
  )


@pytest.mark.parametrize("cosine", [0.0, 0.4])
def test_the_closed_form_of_w_v_is_one_step_of_gradient_descent(world, cosine):
  trained, _ = training.pretrain(
    world.answers_KxSxR,
    world.counts_KxSxR,
    answers=ANSWERS,
    ends=(1,),
    learning_rate=50.0,
    cosine=cosine,
  )
  for seed in range(2):
    closed = one_layer.closed_form_values(
      world.answers_KxSxR[seed], world.counts_KxSxR[seed], ANSWERS, 50.0, cosine
    )
    for name in closed:
      np.testing.assert_allclose(trained[name][seed, 0], closed[name], atol=1e-5, err_msg=name)


def test_salience_in_closed_form_is_as_its_docstring_says(world):
  answers_SxR, counts_SxR = world.answers_KxSxR[0], world.counts_KxSxR[0]
  values = one_layer.closed_form_values(answers_SxR, counts_SxR, ANSWERS, 10.0)
  expected_SxR = (
    10 / 2 * (counts_SxR - counts_SxR.sum(axis=1, keepdims=True) / ANSWERS) / counts_SxR.sum()
  )
  np.testing.assert_allclose(
    one_layer.salience(one_layer.subject_values(values), answers_SxR), expected_SxR, rtol=1e-4
  )


def test_salience_of_exposure_is_that_of_the_trained_matrix_where_relations_name_answers():
  """Many small steps of gradient descent on the subjects' values, the relations' held at "my
  answers and no others".
  """
  subjects, relations, answers = 6, 3, 5
  rng = np.random.default_rng(0)
  answers_SxR = rng.integers(0, answers, (subjects, relations)) + answers * np.arange(relations)
  share_SxR = np.repeat(
    worlds.frequencies(subjects, 1.5)[:, None] / relations, relations, axis=1
  ).astype(np.float32)
  v_RxA = 60 * np.kron(np.eye(relations), np.ones(answers)).astype(np.float32)
  a_SxR = jnp.full((subjects, relations), 0.5)

  def loss(v_SxA):
    return one_layer.loss(one_layer.logits(v_SxA, v_RxA, a_SxR), answers_SxR, share_SxR)

  v_SxA, _ = training.descend(loss, jnp.zeros((subjects, answers * relations)), (100, 2000), 0.5)
  for place, steps in enumerate((100, 2000)):
    expected_SxR = one_layer.salience_of_exposure(0.5 * steps * share_SxR, answers)
    np.testing.assert_allclose(
      one_layer.salience(v_SxA[place], answers_SxR), expected_SxR, rtol=0.02
    )


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-6, 1e6), st.integers(2, 500))
def test_salience_of_exposure_solves_its_equation(exposure, answers):
  def equation(u):
    return 2 * np.expm1(u / 2) + (answers - 1) * u - answers * exposure / 2

  u = optimize.brentq(equation, 0, 200, xtol=1e-12)
  assert one_layer.salience_of_exposure(exposure, answers) == pytest.approx(
    u * (answers - 1) / answers, rel=1e-6, abs=1e-9
  )


def test_salience_of_exposure_rises_and_stays_finite():
  found = one_layer.salience_of_exposure(np.logspace(-3, 8, 200), 20)
  assert np.isfinite(found).all() and (np.diff(found) > 0).all()


def test_loss_and_logits_are_those_of_the_formula():
  v_SxA, v_RxA, a_SxR, answers_SxR = random_model(5)
  weights_SxR = np.full(a_SxR.shape, 1 / a_SxR.size)
  total = 0.0
  for s, r in np.ndindex(a_SxR.shape):
    f_A = a_SxR[s, r] * v_SxA[s] + (1 - a_SxR[s, r]) * v_RxA[r]
    total += (np.log(np.exp(f_A).sum()) - f_A[answers_SxR[s, r]]) * weights_SxR[s, r]
  with jax.enable_x64(True):
    assert float(
      one_layer.loss(one_layer.logits(v_SxA, v_RxA, a_SxR), answers_SxR, weights_SxR)
    ) == pytest.approx(total, rel=1e-12)


def explicit(world, seed, steps, rate):
  """deep.py's model with one layer and head, pretrained on a seed's corpus: (params, tokens,
  answers).
  """
  subjects, relations = world.answers_KxSxR.shape[1:]
  params = deep.init(
    jax.random.key(7), subjects=subjects, relations=relations, answers=ANSWERS, dim=48
  )
  tokens = np.stack(
    np.meshgrid(np.arange(subjects), subjects + np.arange(relations), indexing="ij"), -1
  ).reshape(-1, 2)
  counts = world.counts_KxSxR[seed].ravel()
  answers = world.answers_KxSxR[seed].ravel()
  return (
    deep.train(
      params, ("value",), tokens, answers, counts / counts.sum(), steps=steps, learning_rate=rate
    )[0],
    tokens,
    answers,
  )


def test_random_orthonormal_embeddings_and_explicit_matrices_take_the_same_course(world):
  """The model in the basis of its tokens, against W_V and W_KQ as matrices: pretraining, then
  finetuning of some facts.
  """
  subjects, relations = world.answers_KxSxR.shape[1:]
  w_v, _ = training.pretrain(
    world.answers_KxSxR, world.counts_KxSxR, answers=ANSWERS, ends=(40,), learning_rate=20.0
  )
  params, tokens, answers = explicit(world, 0, 40, 20.0)
  v_SxA, v_RxA = w_v["subject"][0, 0], w_v["relation"][0, 0]
  np.testing.assert_allclose(
    params["embedding"] @ params["value"][0, 0].T @ params["head"],
    np.concatenate([v_SxA, v_RxA]),
    atol=2e-4,
  )

  some = np.arange(0, subjects, 2)
  weights = np.full((1, len(some), relations), 1 / len(some) / relations, np.float32)
  w_kq, _ = training.finetune(
    v_SxA[None, some],
    v_RxA[None],
    world.answers_KxSxR[:1, some],
    weights,
    ends=(30,),
    learning_rate=5.0,
  )
  chosen = np.isin(tokens[:, 0], some)
  tuned, _ = deep.train(
    params,
    ("key_query",),
    tokens[chosen],
    answers[chosen],
    weights.ravel(),
    steps=30,
    learning_rate=5.0,
  )
  own_SxR = np.zeros((subjects, relations), np.float32)
  own_SxR[some] = w_kq["subject"][0, 0]
  a_SxR = one_layer.attention(
    {"subject": own_SxR, "shared": w_kq["shared"][0, 0], "relation": w_kq["relation"][0, 0]}
  )
  f_NxA, looked_NxLxH = deep.forward(tuned, tokens)
  assert np.abs(np.asarray(a_SxR) - 0.5).max() > 0.02, "finetuning has to have moved attention"
  np.testing.assert_allclose(looked_NxLxH[:, 0, 0], a_SxR.ravel(), atol=1e-3)
  np.testing.assert_allclose(
    f_NxA, one_layer.logits(v_SxA, v_RxA, a_SxR).reshape(-1, ANSWERS), atol=5e-3
  )


def test_training_ends_when_as_much_is_known_as_asked(world):
  def right(params, tokens, answers):
    return float((deep.forward(params, tokens)[0].argmax(axis=-1) == answers).mean())

  params, tokens, answers = explicit(world, 0, 1, 20.0)
  weights = np.full(answers.shape, 1 / answers.size, np.float32)
  stopped, _ = deep.train(
    params, ("value",), tokens, answers, weights, steps=500, learning_rate=20.0, known=0.6
  )
  whole, last = deep.train(
    params, ("value",), tokens, answers, weights, steps=500, learning_rate=20.0
  )
  assert 0.6 <= right(stopped, tokens, answers) < right(whole, tokens, answers)
  assert 0 < float(last) < float(deep.loss(stopped, tokens, answers, weights)[0])


def test_several_layers_and_heads_compute_what_loops_compute():
  params = jax.tree.map(
    lambda array: np.asarray(array, np.float64),
    deep.init(
      jax.random.key(0),
      subjects=5,
      relations=2,
      answers=4,
      dim=12,
      layers=2,
      heads=3,
      attention_scale=1.0,
    ),
  )
  params["value"] = np.random.default_rng(0).normal(size=params["value"].shape) / 3
  tokens = np.array([[0, 5], [3, 6]])
  with jax.enable_x64(True):
    f_NxA, looked_NxLxH = map(np.asarray, deep.forward(params, tokens))
  for n, query in enumerate(tokens):
    x = start = params["embedding"][query]
    for layer in range(2):
      added = np.zeros_like(x)
      for head in range(3):
        values = x @ params["value"][layer, head].T
        scores = np.exp(x @ params["key_query"][layer, head] @ x[1])
        weights = scores / scores.sum()
        assert looked_NxLxH[n, layer, head] == pytest.approx(weights[0], rel=1e-9)
        added += np.stack([values[0], weights @ values])
      x = x + added
    np.testing.assert_allclose(f_NxA[n], (x[1] - start[1]) @ params["head"], rtol=1e-9)


def test_embeddings_that_cannot_be_orthonormal_are_refused():
  with pytest.raises(ValueError, match="a dim of at least 19"):
    deep.init(jax.random.key(0), subjects=10, relations=3, answers=6, dim=18)


def test_seeds_side_by_side_are_each_as_alone(world):
  together, _ = training.pretrain(
    world.answers_KxSxR, world.counts_KxSxR, answers=ANSWERS, ends=(3, 9), learning_rate=20.0
  )
  alone, _ = training.pretrain(
    world.answers_KxSxR[1:], world.counts_KxSxR[1:], answers=ANSWERS, ends=(9,), learning_rate=20.0
  )
  np.testing.assert_allclose(
    together["subject"][1, 1], alone["subject"][0, 0], rtol=1e-5, atol=1e-6
  )


def test_a_subject_that_was_not_finetuned_on_moves_with_the_relation_s_token_alone():
  """Orthogonal embeddings: all such subjects of a relation have one attention; with a shared
  direction too, but another.
  """
  v_SxA, v_RxA, _, answers_SxR = random_model(9, np.float32)
  weights = np.full((1, 3, 3), 1 / 9, np.float32)
  for cosine in (0.0, 0.5):
    w_kq, _ = training.finetune(
      v_SxA[None, :3],
      v_RxA[None],
      answers_SxR[None, :3],
      weights,
      ends=(20,),
      learning_rate=1.0,
      cosine=cosine,
    )
    assert (np.abs(w_kq["shared"]).max() > 0) == (cosine > 0)
    assert np.abs(w_kq["relation"]).max() > 0
