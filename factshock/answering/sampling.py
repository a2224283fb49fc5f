"""Generation token by token with a key-value cache under jit: greedily, or by sampling."""

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from factshock.answering import batches, compiling
from factshock.answering.compiling import Ahead
from factshock.checkpoints.loading import LoadedModel
from factshock.devices import partitioning
from factshock.models import families, layers
from factshock.models.model_config import ModelConfig
from factshock.types import Array, Params

NARROWEST = 8  # rows; fewer at a time cost a CPU nearly as much
STRIDE = 4  # tokens between two looks for stop strings of several tokens

# The ids that end a text, int32 [E], and the id that may open it without ending it, or -1.
Ends: TypeAlias = tuple[np.ndarray, int]

# After how many of the ids generated so far a stop string is whole; None where none is yet.
StoppedAfter: TypeAlias = Callable[[np.ndarray], int | None]

# What is carried from token to token: arrays by name, and the family's cache.
State: TypeAlias = dict[str, Any]


class Drawing(NamedTuple):
  """Says how tokens are drawn: a prompt's by a key of the seed and of its place alone.

  Attributes:
    temperature: of the distribution that is drawn from; 0 takes the likeliest token.
    seed: of the random keys.
    first: place of the first prompt, where others were asked before or elsewhere.
  """

  temperature: float = 0.0
  seed: int = 0
  first: int = 0


LIKELIEST = Drawing()


def sample(
  model: LoadedModel,
  prompts: Sequence[Sequence[int]],
  ends: Ends,
  *,
  max_length: int,
  batch_size: int = 256,
  drawing: Drawing = LIKELIEST,
  stopped: StoppedAfter | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Generates token ids after each prompt's token ids.

  Args:
    model: the model to ask.
    prompts: lists of ids.
    ends: ids that end a text, as from `decoding.end_tokens`.
    max_length: tokens at most.
    batch_size: prompts at a time.
    drawing: how each token is chosen.
    stopped: finds stop strings of several tokens, which end a text like the ids of `ends`.

  Returns:
    Tokens, int32 [prompts, max_length], batches.ENDED after a row's end, and their summed natural
    log-probabilities (at temperature 1), float32 [prompts].
  """
  params, _ = batches.place(model)
  placed = model.with_params(params)
  constants = _constants(ends, drawing)
  with Ahead() as ahead:
    generator = _Generator(placed, max_length, drawing.temperature > 0, constants, stopped, ahead)
    run = functools.partial(batches.run, generator.generate, placed, prompts)
    return run(max_length, batch_size, generator.look, drawing.first)


class _Generator:
  """Generates for one batch at a time, as `batches.run` calls it."""

  def __init__(
    self,
    model: LoadedModel,
    max_length: int,
    random: bool,
    constants: Mapping[str, Array],
    stopped: StoppedAfter | None,
    ahead: Ahead,
  ) -> None:
    self._config = model.model_config
    self._decoder_only = model.decoder_only
    self._params = model.params
    self._max_length = max_length
    self._stopped = stopped
    self._is_alone = model.mesh is None or model.mesh.size == 1
    # A CPU's time goes with the rows and tokens. An accelerator's hardly does, but it waits for
    # every number of rows to be compiled.
    self._saves = self._is_alone and layers.on_cpu()
    self._smallest = NARROWEST if self._saves and stopped is None else None
    weights = unstack_layers(model.params, self._config)
    self._advance = functools.partial(
      _advance, model.params, self._config, random, weights, **constants
    )
    self._ahead = ahead
    self._states: dict[tuple[int, int], State] = {}  # shapes after `_begin`, by rows and width
    self._narrowed_to: set[int] = set()  # the numbers of rows that batches went on with

  def generate(
    self,
    params: Params,
    inputs_BxS: Array,
    indices_B: Array,
    used: np.int32,
  ) -> tuple[Array, Array]:
    """Returns the tokens [B, T] and scores [B] of a batch, of whose rows the first `used` count."""
    packed = self._pack(inputs_BxS)
    sizes = self._config, self._max_length
    self._ahead.wait(_begin_key(inputs_BxS, packed))
    state = _begin(params, *sizes, inputs_BxS, indices_B, used, packed)
    whole, width = inputs_BxS.shape

    def advance(state: State, **until: np.int32) -> State:
      rows = len(state["scores_B"])
      if rows < whole:
        self._expect_narrowing(whole, width, rows)
      self._ahead.wait(("advance", rows, width))
      return self._advance(state, **until)

    if self._stopped is not None:
      return _finish_stopping(advance, state, self._max_length, self._stopped)
    return _finish(advance, self._config, state, self._smallest)

  def look(self, inputs_BxS: Array, indices_B: Array) -> None:
    """Has the programs of a batch compiled, where it is on one device.

    (Not those that take rows out of a state, which are soon compiled.)
    """
    if not self._is_alone:
      return
    packed = self._pack(inputs_BxS)
    sizes = self._config, self._max_length
    rows, width = inputs_BxS.shape

    def compile_begin() -> None:
      traced = _begin.trace(self._params, *sizes, inputs_BxS, indices_B, np.int32(0), packed)
      self._states[rows, width] = traced.out_info
      for fewer in (rows, *list(self._narrowed_to)):
        self._compile_advance(rows, width, fewer)
      traced.lower().compile()

    self._ahead.compile(_begin_key(inputs_BxS, packed), compile_begin)

  def _pack(self, inputs_BxS: Array) -> batches.Packed | None:
    """Returns inputs packed; None where rows would have to move between devices, or save little."""
    return batches.pack(np.asarray(inputs_BxS), self._decoder_only) if self._saves else None

  def _expect_narrowing(self, whole: int, width: int, rows: int) -> None:
    """Has compiled what batches will call whose answers end as early as those of this one."""
    if rows not in self._narrowed_to:
      self._narrowed_to.add(rows)
      for shape in list(self._states):
        self._compile_advance(*shape, rows)
    if rows // 2 >= NARROWEST:
      self._compile_advance(whole, width, rows // 2)

  def _compile_advance(self, whole: int, width: int, rows: int) -> None:
    """Has `_advance` compiled for some rows of a batch of `whole` ones."""
    if rows > whole:
      return
    state = self._states[whole, width]
    lower = functools.partial(self._lowered_advance, state, rows)
    self._ahead.compile(("advance", rows, width), lambda: lower().compile())

  def _lowered_advance(self, state: State, rows: int) -> jax.stages.Lowered:
    """Returns `_advance` for some rows of the state that `_begin` makes, or for all."""
    if rows < len(state["scores_B"]):
      kept = jax.ShapeDtypeStruct((rows,), np.int32)
      take = functools.partial(_take, self._config)
      state = jax.eval_shape(take, state, kept)
    limit = {}
    if self._stopped is not None:
      state, limit = jax.eval_shape(_start_log_p, state), {"limit": np.int32(0)}
    state = compiling.shapes_beside(self._params, state)
    known = self._advance
    return _advance.lower(*known.args, state, floor=np.int32(0), **limit, **known.keywords)


def _begin_key(inputs_BxS: Array, packed: batches.Packed | None) -> Hashable:
  """Returns what the programs of `_begin` that are the same have in common."""
  return "begin", inputs_BxS.shape, packed and packed[0].shape


def _constants(ends: Ends, drawing: Drawing) -> dict[str, Array]:
  """Returns the arguments of `_advance` that are the same for all batches."""
  closing_E, opening = ends
  return {
    "closing_E": closing_E,
    "opening": np.asarray(opening, np.int32),
    "temperature": np.asarray(drawing.temperature or 1, np.float32),
    "key": jax.random.key(drawing.seed),
  }


def _finish(
  advance: Callable[..., State],
  config: ModelConfig,
  state: State,
  smallest: int | None,
) -> tuple[Array, Array]:
  """Runs a batch to its end, with fewer rows as they end where it has twice the `smallest`.

  Returns:
    The tokens [B, T] and scores [B].
  """
  if smallest is None or len(state["scores_B"]) < 2 * smallest:
    state = advance(state, floor=np.int32(0))
    return state["tokens_BxT"], state["scores_B"]
  return _narrow(advance, config, state, smallest)


def _finish_stopping(
  advance: Callable[..., State],
  state: State,
  max_length: int,
  stopped: StoppedAfter,
) -> tuple[np.ndarray, np.ndarray]:
  """Runs a batch until all rows have ended or hold a stop string of several tokens.

  What a row has beyond the token that completes one is taken back, so that its answer and score do
  not hang on the others.

  Returns:
    The tokens [B, T] and scores [B].
  """
  state = _start_log_p(state)
  sizes: dict[int, int] = {}
  for limit in (*range(STRIDE, max_length, STRIDE), max_length):
    state = advance(state, floor=np.int32(0), limit=np.int32(limit))
    tokens_BxT, ended_B = map(np.array, partitioning.fetch((state["tokens_BxT"], state["ended_B"])))
    for row, tokens_T in enumerate(tokens_BxT):
      size = None if row in sizes else stopped(tokens_T[tokens_T != batches.ENDED])
      if size is not None:
        sizes[row] = size
        ended_B[row] = True
    if ended_B.all():
      break
    state = {**state, "ended_B": state["ended_B"] | ended_B}
  for row, size in sizes.items():
    tokens_BxT[row, size:] = batches.ENDED
  log_p_BxT = np.where(tokens_BxT == batches.ENDED, 0, partitioning.fetch(state["log_p_BxT"]))
  return tokens_BxT, np.cumsum(log_p_BxT, axis=1, dtype=np.float32)[:, -1]


def _narrow(
  advance: Callable[..., State],
  config: ModelConfig,
  state: State,
  smallest: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Runs a batch to its end, going on with half of its rows whenever half have ended.

  Returns:
    The tokens [B, T] and scores [B].
  """
  indices = np.arange(len(state["scores_B"]))
  tokens_BxT = np.array(state["tokens_BxT"])
  scores_B = np.array(state["scores_B"])
  while True:
    half = len(indices) // 2
    half = half if half >= smallest else 0
    state = advance(state, floor=np.int32(half))
    tokens_BxT[indices] = state["tokens_BxT"]
    scores_B[indices] = state["scores_B"]
    ended_B = np.asarray(state["ended_B"])
    if ended_B.all() or state["step"] == tokens_BxT.shape[1]:
      return tokens_BxT, scores_B
    while half >= 2 * smallest and 2 * (~ended_B).sum() <= half:
      half //= 2
    kept = np.argsort(ended_B, kind="stable")[:half]
    state = _take(config, state, jnp.asarray(kept))
    indices = indices[kept]


def unstack_layers(params: Params, config: ModelConfig) -> list[Params] | None:
  """Returns the weights of each layer on its own, as the family has them, for all batches."""
  return families.of(config).layer_weights(params)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _begin(
  params: Params,
  config: ModelConfig,
  max_length: int,
  inputs_BxS: Array,
  indices_B: Array,
  used: Array,
  packed: tuple[Array, Array, Array] | None,
) -> State:
  """Returns the state of a batch before its first token, of which `used` rows count."""
  family = families.of(config)
  rows = inputs_BxS.shape[0]
  cache, first_B = family.start(params, config, inputs_BxS, max_length, packed)
  return {
    "step": jnp.int32(0),
    "cache": family.unstack(cache),
    "token_B": first_B,
    "which_B": indices_B,
    "ended_B": jnp.arange(rows) >= used,
    "tokens_BxT": jnp.full((rows, max_length), batches.ENDED, jnp.int32),
    "scores_B": jnp.zeros(rows, jnp.float32),
  }


@functools.partial(jax.jit, static_argnums=(1, 2), donate_argnums=4)
def _advance(  # noqa: PLR0913 (arguments of a compiled function: a dataclass would be a pytree)
  params: Params,
  config: ModelConfig,
  random: bool,
  weights: list[Params] | None,
  state: State,
  *,
  floor: Array,
  limit: "Array | None" = None,
  closing_E: Array,
  opening: Array,
  temperature: Array,
  key: jax.Array,
) -> State:
  """Generates tokens until at most `floor` rows go on, or there are `limit` (None: all) of them."""
  family = families.of(config)
  max_length = state["tokens_BxT"].shape[1] if limit is None else limit
  keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, state["which_B"]) if random else key

  def goes_on(state: State) -> jax.Array:
    return (state["step"] < max_length) & ((~state["ended_B"]).sum() > floor)

  def add_token(state: State) -> State:
    step = state["step"]
    cache = dict(state["cache"], weights=weights)
    logits_BxV, cache = family.step(params, config, cache, state["token_B"])
    del cache["weights"]
    if random:
      chosen_B = _draw(keys_B, step, logits_BxV / temperature)
    else:
      chosen_B = logits_BxV.argmax(axis=-1).astype(jnp.int32)
    log_p_B = log_p(logits_BxV, chosen_B)
    opens_B = (step == 0) & (chosen_B == opening)
    closes_B = (chosen_B[:, None] == closing_E[None]).any(axis=1)
    return _append(dict(state, cache=cache), chosen_B, log_p_B, closes_B & ~opens_B)

  return jax.lax.while_loop(goes_on, add_token, state)


def _append(
  state: State,
  chosen_B: jax.Array,
  log_p_B: jax.Array,
  ends_B: jax.Array,
) -> State:
  """Returns the state with a token added to each row that goes on.

  Args:
    state: the state before, with the cache after the step.
    chosen_B: the tokens.
    log_p_B: their log-probabilities.
    ends_B: whether they end their rows.
  """
  step = state["step"]
  ended_B = state["ended_B"]
  written_B = jnp.where(ended_B, batches.ENDED, chosen_B)
  if "log_p_BxT" in state:
    state = {**state, "log_p_BxT": state["log_p_BxT"].at[:, step].set(log_p_B)}
  return dict(
    state,
    step=step + 1,
    token_B=jnp.where(ended_B, 0, chosen_B),
    ended_B=ended_B | ends_B,
    tokens_BxT=state["tokens_BxT"].at[:, step].set(written_B),
    scores_B=state["scores_B"] + jnp.where(ended_B, 0.0, log_p_B),
  )


def log_p(logits_RxV: jax.Array, tokens_R: jax.Array) -> jax.Array:
  """Returns the log-probability of a token of each row, [R]."""
  logit_R = jnp.take_along_axis(logits_RxV, tokens_R[:, None], axis=1)[:, 0]
  return logit_R - jax.nn.logsumexp(logits_RxV, axis=-1)


def _draw(
  keys_B: jax.Array,
  step: jax.Array,
  logits_BxV: jax.Array,
) -> jax.Array:
  """Draws a token of each row by its key and the step, int32 [B]."""
  step_keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, step)
  return jax.vmap(jax.random.categorical)(step_keys_B, logits_BxV).astype(jnp.int32)


@functools.partial(jax.jit, static_argnums=0)
def _take(
  config: ModelConfig,
  state: State,
  rows_R: jax.Array,
) -> State:
  """Returns the state of these rows alone."""
  kept = {name: value[rows_R] for name, value in state.items() if name not in ("step", "cache")}
  cache = families.of(config).take_rows(state["cache"], rows_R)
  return dict(kept, step=state["step"], cache=cache)


@functools.partial(jax.jit, donate_argnums=0)
def _start_log_p(state: State) -> State:
  """Returns the state with room for the log-probability of each token."""
  return {**state, "log_p_BxT": jnp.zeros(state["tokens_BxT"].shape, jnp.float32)}
