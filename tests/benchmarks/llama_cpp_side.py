"""Greedy answers of llama.cpp, a batch of prompts at a time, through its C interface."""

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import llama_cpp
import numpy as np

_FLOAT32 = 0  # llama_ftype LLAMA_FTYPE_ALL_F32


def widened(path: str, target: str) -> str:
  """Writes a GGUF file's weights as float32 to another file; returns its name."""
  params = llama_cpp.llama_model_quantize_default_params()
  params.ftype = _FLOAT32
  params.allow_requantize = True
  params.nthread = os.cpu_count() or 1
  if llama_cpp.llama_model_quantize(path.encode(), target.encode(), ctypes.byref(params)):
    raise RuntimeError(f"{path}: llama.cpp could not widen it")
  return target


def generator(
  path: str,
  prompts: Sequence[Sequence[int]],
  batch_size: int,
  tokens: int,
) -> Callable[[], np.ndarray]:
  """Returns a function that answers all prompts greedily: int64 [prompts, tokens].

  Args:
    path: the GGUF file.
    prompts: token lists, sorted by length here.
    batch_size: prompts at a time, a sequence each.
    tokens: new ones, as nothing ends an answer.
  """
  silence = llama_cpp.llama_log_callback(lambda level, text, data: None)
  llama_cpp.llama_log_set(silence, ctypes.c_void_p(0))
  llama_cpp.llama_backend_init()
  model = llama_cpp.llama_model_load_from_file(
    path.encode(), llama_cpp.llama_model_default_params()
  )
  longest = max(map(len, prompts)) + tokens
  params = llama_cpp.llama_context_default_params()
  params.n_ctx = longest * batch_size
  params.n_batch = params.n_ubatch = longest * batch_size
  params.n_seq_max = batch_size
  params.n_threads = params.n_threads_batch = os.cpu_count() or 1
  context = llama_cpp.llama_init_from_model(model, params)
  vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
  order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))

  def run() -> np.ndarray:
    assert silence  # a callback that C calls must live
    rows = np.zeros((len(prompts), tokens), np.int64)
    for start in range(0, len(order), batch_size):
      part = order[start : start + batch_size]
      found = _answers(context, [prompts[index] for index in part], tokens, vocabulary)
      rows[part] = np.stack(list(found), axis=1)
    return rows

  return run


def _answers(
  context: Any, prompts: Sequence[Sequence[int]], tokens: int, vocabulary: int
) -> Iterator[np.ndarray]:
  """Yields each next token of some prompts, int64 [prompts]."""
  llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
  places = np.array([len(prompt) for prompt in prompts])
  last = _decode(context, [(list(prompt), 0) for prompt in prompts])
  for step in range(tokens):
    logits = [
      np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, index), (vocabulary,)).argmax()
      for index in last
    ]
    chosen = np.array(logits, np.int64)
    yield chosen
    if step + 1 < tokens:
      last = _decode(context, [([int(token)], place) for token, place in zip(chosen, places)])
      places += 1


def _decode(context: Any, parts: Sequence[tuple[list[int], int]]) -> list[int]:
  """Reads tokens of each sequence from a position on; returns where each one's last logits are."""
  count = sum(len(tokens) for tokens, _ in parts)
  batch = llama_cpp.llama_batch_init(count, 0, 1)
  at = 0
  last = []
  for sequence, (tokens, first) in enumerate(parts):
    for offset, token in enumerate(tokens):
      batch.token[at] = token
      batch.pos[at] = first + offset
      batch.n_seq_id[at] = 1
      batch.seq_id[at][0] = sequence
      batch.logits[at] = offset == len(tokens) - 1
      at += 1
    last.append(at - 1)
  batch.n_tokens = count
  failed = llama_cpp.llama_decode(context, batch)
  llama_cpp.llama_batch_free(batch)
  if failed:
    raise RuntimeError(f"llama.cpp: decoding ended with {failed}")
  return last
