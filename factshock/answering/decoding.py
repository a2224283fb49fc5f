"""Generation of answers with a key-value cache under jit: greedily, or by sampling; beams are in beams.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from factshock.answering import batches
from factshock.answering import beams as beam_search
from factshock.data import decoder_text
from factshock.models import families

METHODS = ("greedy", "sample", "beam")
NARROWEST = 8  # rows; fewer at a time cost a CPU nearly as much


def generate(
  params,
  model_config,
  tokenizer,
  prompts,
  *,
  max_length,
  batch_size=256,
  mesh=None,
  method="greedy",
  temperature=1.0,
  seed=0,
  beams=4,
  length_penalty=1.0,
  stops=None,
):
  """The model's answers to prompts, and their log-probabilities.

  A T5's answer stands between <extra_id_0> (or the start, where the model leaves it out) and the next
  sentinel or EOS; a decoder-only model's is what follows the prompt up to EOS or a stop string.

  Args:
    params, model_config: weights and config of a model.
    tokenizer: as from data/tokenizers.
    prompts: list of texts; for a T5 each holds "<extra_id_0>" where the answer goes.
    max_length: tokens at most, <extra_id_0> and the closing token included.
    batch_size: prompts at a time. mesh: devices to share each batch over (axis "data").
    method: "greedy" (the likeliest next token), "sample" (from softmax(logits / temperature), by a random
      key of `seed` and the prompt's place alone, whatever the batch), or "beam" (`beams` hypotheses, compared by
      log-probability / tokens ** length_penalty).
    stops: strings that end an answer; where one is a token of its own, generation ends there too. By default the end of the line
      for a decoder-only model, none for a T5.
  Returns: (texts, scores): list of str, and float32 array of the natural log-probabilities (at temperature 1) of all
    tokens generated, <extra_id_0> and the closing token included.
  Raises:
    ValueError: max_length, batch_size or temperature out of range, or an unknown method.
    UserError: a prompt without a place for the answer or too long; a model with too few tokens.
  """
  if max_length < 1 or batch_size < 1 or not temperature > 0 or beams < 1:
    raise ValueError(
      "expected max_length, batch_size and beams of at least 1 and a temperature above 0, got "
      f"{max_length}, {batch_size}, {beams} and {temperature}"
    )
  if method not in METHODS:
    raise ValueError(f"expected a method of {METHODS}, got {method!r}")
  encoded, stops, ends = _prepared(model_config, tokenizer, prompts, max_length, stops)
  if method == "beam":
    run = functools.partial(beam_search.search, beams=beams, length_penalty=length_penalty)
  else:
    run = functools.partial(
      sample, temperature=temperature if method == "sample" else 0.0, seed=seed
    )
  tokens, scores = run(
    params,
    model_config,
    encoded,
    ends,
    max_length=max_length,
    batch_size=batch_size,
    mesh=mesh,
    left=batches.is_decoder_only(tokenizer),
  )
  return [cut(answer_text(tokenizer, row), stops) for row in tokens], scores


def hypotheses(
  params,
  model_config,
  tokenizer,
  prompts,
  *,
  max_length,
  batch_size=256,
  mesh=None,
  beams=4,
  length_penalty=1.0,
  stops=None,
):
  """The answers of a beam search to each prompt, the best first: lists of (text, log-probability); as `generate` has it."""

  encoded, stops, ends = _prepared(model_config, tokenizer, prompts, max_length, stops)
  tokens, scores = beam_search.search_all(
    params,
    model_config,
    encoded,
    ends,
    beams=beams,
    length_penalty=length_penalty,
    max_length=max_length,
    batch_size=batch_size,
    mesh=mesh,
    left=batches.is_decoder_only(tokenizer),
  )
  return [
    [
      (cut(answer_text(tokenizer, row), stops), float(score))
      for row, score in zip(*both)
      if score > beam_search.LOWEST
    ]
    for both in zip(tokens, scores)
  ]


def _prepared(model_config, tokenizer, prompts, max_length, stops):
  """(token ids of the prompts, stop strings, end tokens), checked against the model."""
  batches.check_vocabulary(tokenizer.size, model_config)
  encoded = [batches.encode_prompt(tokenizer, prompt) for prompt in prompts]
  batches.check_room(encoded, model_config, max_length)
  if stops is None:
    stops = (decoder_text.STOP,) if batches.is_decoder_only(tokenizer) else ()
  return encoded, stops, end_tokens(tokenizer, stops)


def end_tokens(tokenizer, stops=()):
  """(ids that end a text, the id that may open it without ending it or -1): numpy int32 [E], int."""
  if batches.is_decoder_only(tokenizer):
    return np.array([tokenizer.eos, *batches.stop_tokens(tokenizer, stops)], np.int32), -1
  sentinels = [tokenizer.sentinel(number) for number in range(tokenizer.sentinels)]
  return np.array([tokenizer.eos, 0, *sentinels], np.int32), tokenizer.sentinel(0)


def answer_tokens(tokenizer, tokens):
  """The token ids of the answer in those generated: after a leading <extra_id_0>, up to a sentinel, EOS or padding."""
  tokens = [int(token) for token in tokens]
  if batches.is_decoder_only(tokenizer):
    ends = [place for place, token in enumerate(tokens) if token in (tokenizer.eos, batches.ENDED)]
  else:
    tokens = tokens[1:] if tokens[:1] == [tokenizer.sentinel(0)] else tokens
    lowest = tokenizer.sentinel(tokenizer.sentinels - 1)
    ends = [
      place
      for place, token in enumerate(tokens)
      if token >= lowest or token in (tokenizer.eos, tokenizer.pad, batches.ENDED)
    ]
  return tokens[: ends[0]] if ends else tokens


def answer_text(tokenizer, tokens):
  """The answer in the generated token ids, as text without the white space before it (a T5's: nor after it)."""
  text = tokenizer.decode(answer_tokens(tokenizer, tokens))
  return text.lstrip(" ") if batches.is_decoder_only(tokenizer) else text.strip()


def before_stop(text, stops):
  """The text before the first of the stop strings."""
  places = [text.find(stop) for stop in stops if stop in text]
  return text[: min(places)] if places else text


def cut(text, stops):
  """The text before the first of the stop strings, without white space around it."""
  return before_stop(text, stops).strip()


def sample(
  params,
  config,
  prompts,
  ends,
  *,
  max_length,
  batch_size=256,
  mesh=None,
  left=False,
  temperature=0.0,
  seed=0,
):
  """Token ids generated after each prompt's token ids, and their summed log-probabilities (at temperature 1).

  Args:
    prompts: list of lists of ids. ends: as from `end_tokens`. left: pad on the left, as decoder-only models need.
    temperature: 0 takes the likeliest token.
  Returns: (int32 [prompts, max_length], batches.ENDED after a row's end; float32 [prompts]).
  """
  closing, opening = ends
  # A CPU's time goes with the rows; an accelerator's hardly does.
  alone = mesh is None or mesh.size == 1
  smallest = NARROWEST if alone and jax.default_backend() == "cpu" else None
  params, _ = batches.placed(params, mesh)
  weights = apart(params, config)

  def run(params, inputs_BxS, which_B, used):
    packed = (
      batches.packed(np.asarray(inputs_BxS), left) if alone else None
    )  # rows on a mesh would have to move
    state = _begin(params, config, max_length, inputs_BxS, which_B, used, packed)
    advance = functools.partial(
      _advance,
      params,
      config,
      temperature > 0,
      weights,
      closing_E=closing,
      opening=np.int32(opening),
      temperature=np.float32(temperature or 1),
      key=jax.random.key(seed),
    )
    if smallest is None or len(inputs_BxS) < 2 * smallest:
      state = advance(state, floor=np.int32(0))
      return state["tokens_BxT"], state["scores_B"]
    return _narrowing(advance, config, state, smallest)

  return batches.run(run, params, prompts, max_length, batch_size, mesh, left)


def _narrowing(advance, config, state, smallest):
  """The tokens [B, T] and scores [B] of a batch that goes on with half of its rows whenever half have ended."""
  places = np.arange(len(state["scores_B"]))
  tokens_BxT = np.array(state["tokens_BxT"])
  scores_B = np.array(state["scores_B"])
  while True:
    half = len(places) // 2
    half = half if half >= smallest else 0
    state = advance(state, floor=np.int32(half))
    tokens_BxT[places], scores_B[places] = state["tokens_BxT"], state["scores_B"]
    ended = np.asarray(state["ended_B"])
    if ended.all() or state["step"] == tokens_BxT.shape[1]:
      return tokens_BxT, scores_B
    while half >= 2 * smallest and 2 * (~ended).sum() <= half:
      half //= 2
    kept = np.argsort(ended, kind="stable")[:half]
    state = _take(config, state, kept)
    places = places[kept]


@functools.partial(jax.jit, static_argnums=1)
def apart(params, config):
  """The weights of the layers each on its own, once for all batches (models' `apart`)."""
  return families.of(config).layer_weights(params)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _begin(params, config, max_length, inputs_BxS, which_B, used, packed):
  """The state of a batch before its first token, of which `used` rows count."""
  module = families.of(config)
  rows = inputs_BxS.shape[0]
  cache, first_B = module.start(params, config, inputs_BxS, max_length, packed)
  return {
    "step": jnp.int32(0),
    "cache": module.unstack(cache),
    "token_B": first_B,
    "which_B": which_B,
    "ended_B": jnp.arange(rows) >= used,
    "tokens_BxT": jnp.full((rows, max_length), batches.ENDED, jnp.int32),
    "scores_B": jnp.zeros(rows, jnp.float32),
  }


@functools.partial(jax.jit, static_argnums=(1, 2), donate_argnums=4)
def _advance(
  params, config, random, weights, state, *, floor, closing_E, opening, temperature, key
):
  """The state after as many tokens as it takes until at most `floor` rows go on, or the tokens are full."""
  module = families.of(config)
  max_length = state["tokens_BxT"].shape[1]
  keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, state["which_B"]) if random else None

  def going(state):
    return (state["step"] < max_length) & ((~state["ended_B"]).sum() > floor)

  def choose(logits_BxV, step):
    if not random:
      return logits_BxV.argmax(axis=-1).astype(jnp.int32)
    step_keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, step)
    return jax.vmap(jax.random.categorical)(step_keys_B, logits_BxV / temperature).astype(jnp.int32)

  def one(state):
    step = state["step"]
    ended_B = state["ended_B"]
    logits_BxV, cache = module.step(
      params, config, dict(state["cache"], weights=weights), state["token_B"]
    )
    del cache["weights"]
    chosen_B = choose(logits_BxV, step)
    log_p_B = jnp.take_along_axis(logits_BxV, chosen_B[:, None], axis=1)[:, 0] - jax.nn.logsumexp(
      logits_BxV, axis=-1
    )
    opens_B = (step == 0) & (chosen_B == opening)
    return dict(
      state,
      step=step + 1,
      cache=cache,
      token_B=jnp.where(ended_B, 0, chosen_B),
      ended_B=ended_B | ((chosen_B[:, None] == closing_E[None]).any(axis=1) & ~opens_B),
      tokens_BxT=state["tokens_BxT"].at[:, step].set(jnp.where(ended_B, batches.ENDED, chosen_B)),
      scores_B=state["scores_B"] + jnp.where(ended_B, 0.0, log_p_B),
    )

  return jax.lax.while_loop(going, one, state)


@functools.partial(jax.jit, static_argnums=0)
def _take(config, state, rows_R):
  """The state of these rows alone."""
  taken = {name: value[rows_R] for name, value in state.items() if name not in ("step", "cache")}
  return dict(
    taken, step=state["step"], cache=families.of(config).take_rows(state["cache"], rows_R)
  )
