"""PyTorch transformers' T5, Llama and Mistral with given weights, computing in float64 throughout.

`model.double()` does not suffice: their norms, softmax and positions go through float32 whatever
the dtype of the weights. Here each request for float32 is one for float64, and a result in float32
is an error.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import torch
from helpers import hf_llama, hf_t5
from torch.overrides import TorchFunctionMode
from transformers.models.t5.modeling_t5 import T5Attention

from factshock.models.decoder import PAD, LlamaConfig
from factshock.types import Params
from gpu import cases
from gpu.cases import Case


class _InDouble(TorchFunctionMode):
  """Turns every request for float32 into one for float64, and checks that there is no float32."""

  off = False

  def __torch_function__(
    self,
    func: Callable[..., Any],
    types: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
  ) -> Any:
    kwargs = kwargs or {}
    if self.off:
      return func(*args, **kwargs)
    if func is torch.Tensor.float:
      func = torch.Tensor.double
    result = func(
      *[_wide(argument) for argument in args],
      **{name: _wide(argument) for name, argument in kwargs.items()},
    )
    if isinstance(result, torch.Tensor) and result.dtype == torch.float32:
      raise AssertionError(f"{func} gave float32")
    return result


def references_of(case: Case) -> Iterator[tuple[str, np.ndarray]]:
  """Yields the name and array of each reference of a case.

  Of each batch: `loss` (the sum), `logits` of the picked positions, `gradients/...` of the loss sum
  by weight. Of the prompts: `tokens` [prompts, GENERATED], and `margins`, by how much the
  likeliest token's logit was above the second.
  """
  with _in_double():
    model = _model(case)
    for shape in case.shapes:
      key = cases.key_of(case, shape)
      batch = cases.batch_of_case(case, shape)
      model.zero_grad()
      logits = _logits(case, model, batch)
      loss = _loss(case, logits, batch)
      loss.backward()
      yield f"{key}/loss", np.array(loss.item())
      picked = logits[:, torch.tensor(cases.picked_of(shape)).long()].detach().numpy()
      yield f"{key}/logits", picked.astype(np.float32)
      for name, gradient in _flat(_helper(case).gradients(case.config, model)):
        yield f"{key}/gradients/{name}", gradient
    if case.generates:
      tokens, margins = _continued(case, model)
      yield f"{case.name}/tokens", tokens
      yield f"{case.name}/margins", margins


@contextlib.contextmanager
def _in_double() -> Iterator[None]:
  """Computes in float64, but for T5's buckets, whose edges float32 decides."""
  mode = _InDouble()
  buckets = T5Attention._relative_position_bucket
  before = torch.get_default_dtype()

  def as_it_is(*args: Any, **kwargs: Any) -> torch.Tensor:
    mode.off = True
    try:
      return buckets(*args, **kwargs)
    finally:
      mode.off = False

  torch.set_default_dtype(torch.float64)
  T5Attention._relative_position_bucket = staticmethod(as_it_is)
  try:
    with mode:
      yield
  finally:
    T5Attention._relative_position_bucket = staticmethod(buckets)
    torch.set_default_dtype(before)


def _wide(argument: Any) -> Any:
  return torch.float64 if argument is torch.float32 else argument


def _helper(case: Case) -> Any:
  return hf_llama if isinstance(case.config, LlamaConfig) else hf_t5


def _model(case: Case) -> Any:
  """Returns transformers' model with the case's weights.

  The helper maps its state dict to our tree. The same map of numbered places tells where each of
  our weights comes from: places are below 2 ** 24, so that float32 holds them.
  """
  model = _helper(case).peer(case.config)
  state = dict(model.named_parameters())
  places = {}
  total = 0
  for name, parameter in state.items():
    places[name] = torch.arange(total, total + parameter.numel()).reshape(parameter.shape)
    total += parameter.numel()
  assert total < 2**24
  values = np.full(total, np.nan)
  sources = _helper(case).params(case.config, places)
  weights = cases.params_of(case.config)
  for place, weight in zip(jax.tree.leaves(sources), jax.tree.leaves(weights), strict=True):
    values[place.astype(np.int64)] = weight
  assert np.isfinite(values).all()
  with torch.no_grad():
    for name, parameter in state.items():
      parameter.copy_(torch.tensor(values[places[name].numpy()]))
  return model


def _logits(case: Case, model: Any, batch: Mapping[str, np.ndarray]) -> torch.Tensor:
  """Returns the logits at each position of a batch of padded rows."""
  if isinstance(case.config, LlamaConfig):
    used = batch["tokens"] != PAD
    return model(
      input_ids=_long(np.maximum(batch["tokens"], 0)), attention_mask=_long(used), use_cache=False
    ).logits
  targets = _long(batch["targets"])
  return model(
    input_ids=_long(batch["inputs"]),
    attention_mask=_long(batch["inputs"] != 0),
    decoder_input_ids=torch.nn.functional.pad(targets[:, :-1], (1, 0)),
    use_cache=False,
  ).logits


def _loss(case: Case, logits: torch.Tensor, batch: Mapping[str, np.ndarray]) -> torch.Tensor:
  """Returns the sum of the negative log-likelihoods of a batch's tokens, by weight."""
  weights = torch.tensor(batch["weights"].astype(np.float64))
  if isinstance(case.config, LlamaConfig):
    targets = _long(np.maximum(batch["tokens"], 0))[:, 1:]
    logits = logits[:, :-1]
    weights = weights[:, 1:]
  else:
    targets = _long(batch["targets"])
  log_p = torch.log_softmax(logits, dim=-1)
  return -(weights * torch.gather(log_p, 2, targets[:, :, None])[..., 0]).sum()


def _continued(case: Case, model: Any) -> tuple[np.ndarray, np.ndarray]:
  """Returns the likeliest token after each prompt, again and again, with no cache or padding."""
  by_length = [list(group) for _, group in itertools.groupby(cases.prompts_of(case), key=len)]
  pairs = [_continued_alike(case, model, np.array(prompts)) for prompts in by_length]
  tokens, margins = zip(*pairs)
  return np.concatenate(tokens), np.concatenate(margins)


def _continued_alike(
  case: Case, model: Any, prompts_PxS: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the tokens and margins, both [P, GENERATED], of prompts of one length."""
  rows = len(prompts_PxS)
  tokens = np.zeros((rows, cases.GENERATED), np.int32)
  margins = np.zeros(tokens.shape, np.float32)
  opening = np.zeros((rows, 1), np.int32)
  for step in range(cases.GENERATED):
    before = tokens[:, :step]
    if isinstance(case.config, LlamaConfig):
      asked = dict(input_ids=_long(np.hstack([prompts_PxS, before])))
    else:
      decoded = np.hstack([opening, before])
      asked = dict(input_ids=_long(prompts_PxS), decoder_input_ids=_long(decoded))
    with torch.no_grad():
      best, indices = model(**asked, use_cache=False).logits[:, -1].topk(2)
    tokens[:, step] = indices[:, 0].numpy()
    margins[:, step] = (best[:, 0] - best[:, 1]).numpy()
  return tokens, margins


def _long(array: Any) -> torch.Tensor:
  return torch.tensor(np.asarray(array)).long()


def _flat(tree: Params) -> Iterator[tuple[str, np.ndarray]]:
  """Yields the leaves of a tree by path."""
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    yield cases.name_of(path), leaf
