"""Low-rank adapters in PEFT's format: adapter_config.json and adapter_model.safetensors, in and out."""

import json
import math
import os
import re
from typing import NamedTuple

import numpy as np

from factshock.models import families
from factshock.models.formats.huggingface import files, names, writing
from factshock.runtime.errors import UserError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."


class Adapters(NamedTuple):
  """Adapters as models/lora.py has them, and what they stand on.

  tree: nested dict, `a` [N, inputs, rank] and `b` [N, rank, outputs] of each adapted weight, float32; zero in a
    layer without an adapter. scale = alpha / rank. base: path or hub id of the model they stand on.
  """

  tree: dict
  rank: int
  alpha: float
  base: str

  @property
  def scale(self):
    return self.alpha / self.rank

  def merge_into(self, leaf, array_NxIxO):
    """Adds what the adapter of a leaf does to the leaf's weights, in float32, layer by layer, in place."""
    pair = _find(self.tree, leaf)
    if pair:
      for layer, weight_IxO in enumerate(array_NxIxO):
        change_IxO = (self.scale * np.asarray(pair["a"][layer], np.float32)) @ np.asarray(
          pair["b"][layer], np.float32
        )
        weight_IxO[...] = (weight_IxO.astype(np.float32) + change_IxO).astype(weight_IxO.dtype)


def is_folder(folder):
  """Whether a folder holds adapters and no model."""
  return os.path.isfile(os.path.join(folder, CONFIG)) and not os.path.isfile(
    os.path.join(folder, "config.json")
  )


def base_of(folder):
  """The model that a folder's adapters stand on: a path (relative ones are found beside the adapters too) or hub id."""
  base = _read_config(folder)["base_model_name_or_path"]
  beside = os.path.join(folder, base)
  return beside if not os.path.exists(base) and os.path.isdir(beside) else base


def read(folder, config):
  """The Adapters of a folder that PEFT or `write` made, for a model of `config`.

  A layer's own rank and alpha (rank_pattern, alpha_pattern, rslora) are folded into `b`.

  Raises:
    UserError: something other than LoRA, a damaged file, or tensors that do not fit the model; names each.
  """
  found = _read_config(folder)
  path = os.path.join(folder, WEIGHTS)
  if not os.path.exists(path):
    raise UserError(
      f"{folder}: expected {WEIGHTS}, got none; let PEFT save the adapters as safetensors"
    )
  stored = files.read_header(path)
  modules = {
    _PREFIX + part.name.removesuffix(".weight"): part
    for part in names.tensors(config)
    if part.transposed
  }
  pairs, lines = _pairs(stored, modules)
  if not pairs and not lines:
    lines = ["it holds no adapter"]
  if lines:
    raise UserError(f"{path}: the adapters do not fit the model: {'; '.join(lines)}")
  ranks = {module: pair["A"].shape[0] for module, pair in pairs.items()}
  rank = max(ranks.values())
  scales = {
    module: _scale(found, module.removeprefix(_PREFIX), own) for module, own in ranks.items()
  }
  alpha = rank * next(iter(scales.values()))
  tree = {}
  depths = {leaf: len(parts) for leaf, parts in names.by_leaf(config).items()}
  for module, pair in pairs.items():
    part = modules[module]
    outputs, inputs = part.shape
    leaf = _at(tree, part.leaf)
    leaf.setdefault("a", np.zeros((depths[part.leaf], inputs, rank), np.float32))
    leaf.setdefault("b", np.zeros((depths[part.leaf], rank, outputs), np.float32))
    leaf["a"][part.layer, :, : ranks[module]] = pair["A"].read().astype(np.float32).T
    leaf["b"][part.layer, : ranks[module]] = pair["B"].read().astype(np.float32).T * (
      scales[module] / (alpha / rank)
    )
  return Adapters(tree, rank, alpha, base_of(folder))


def write(folder, adapters, config, tokenizer_from=None):
  """Writes adapters as PEFT loads them, whole or not at all.

  Args:
    folder: to write; must not exist.
    adapters: Adapters of a model of `config`; PEFT looks for the model at their `base`.
    tokenizer_from: folder whose tokenizer files are copied along.

  Raises:
    UserError: the folder exists, or the disk fails.
  """
  tensors = []
  modules = []
  for leaf, parts in names.by_leaf(config).items():
    pair = _find(adapters.tree, leaf)
    for part in parts if pair else ():
      modules.append(part.name.removesuffix(".weight"))
      for letter, array_NxIxO in (("A", pair["a"]), ("B", pair["b"])):
        tensors.append(
          _writable(f"{_PREFIX}{modules[-1]}.lora_{letter}.weight", array_NxIxO, part.layer)
        )
  alpha = int(adapters.alpha) if float(adapters.alpha).is_integer() else adapters.alpha
  settings = {
    "peft_type": "LORA",
    "task_type": families.of(config).huggingface.task_type,
    "base_model_name_or_path": str(adapters.base),
    "r": adapters.rank,
    "lora_alpha": alpha,
    "lora_dropout": 0.0,
    "target_modules": _targets(modules, config),
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "use_rslora": False,
    "use_dora": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "revision": None,
  }
  with files.whole_folder(folder) as temporary:
    files.write_file(os.path.join(temporary, WEIGHTS), tensors)
    writing.copy_tokenizer(tokenizer_from, temporary)
    writing.write_json(os.path.join(temporary, CONFIG), settings)


def _read_config(folder):
  path = os.path.join(folder, CONFIG)
  try:
    with open(path, encoding="utf-8") as file:
      found = json.load(file)
    found["base_model_name_or_path"] + ""
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(
      f"{path}: expected PEFT's settings with base_model_name_or_path, got a broken file "
      f"({error!r}); copy it again"
    ) from error
  wrong = [
    f"{key} {found[key]!r}"
    for key, plain in (
      ("peft_type", "LORA"),
      ("use_dora", False),
      ("bias", "none"),
      ("modules_to_save", None),
      ("fan_in_fan_out", False),
    )
    if found.get(key, plain) != plain and not (plain is None and not found[key])
  ]
  if wrong:
    raise UserError(
      f"{path}: only plain LoRA is supported, got {', '.join(wrong)}; merge such adapters with PEFT "
      "(merge_and_unload) and give the merged model"
    )
  return found


def _pairs(stored, modules):
  """({module: {"A", "B"}}, lines of what does not fit)."""
  pairs = {}
  lines = []
  for name, tensor in stored.items():
    match = re.fullmatch(r"(.+)\.lora_([AB])(\.default)?\.weight", name)
    if not match or match[1] not in modules:
      lines.append(f"unexpected {name} {list(tensor.shape)}")
      continue
    pairs.setdefault(match[1], {})[match[2]] = tensor
  for module, pair in pairs.items():
    if len(pair) < 2:
      lines.append(f"missing {module}.lora_{'B' if 'A' in pair else 'A'}.weight")
      continue
    outputs, inputs = modules[module].shape
    rank = pair["A"].shape[0] if pair["A"].shape else 0
    for letter, expected in (("A", (rank, inputs)), ("B", (outputs, rank))):
      if pair[letter].shape != expected:
        lines.append(
          f"mis-shaped {module}.lora_{letter}.weight expected {list(expected)} got {list(pair[letter].shape)}"
        )
  return pairs, lines


def _scale(found, module, rank):
  """alpha / rank of one module, as PEFT reads its settings."""
  patterns = found.get("alpha_pattern") or {}
  alpha = next(
    (value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module)),
    found.get("lora_alpha", 8),
  )
  return alpha / (math.sqrt(rank) if found.get("use_rslora") else rank)


def _targets(modules, config):
  """The modules by their last names where these name no others, else in full."""
  short = {module.rsplit(".", 1)[1] for module in modules}
  everything = [part.name.removesuffix(".weight") for part in names.tensors(config)]
  named = [module for module in everything if module.rsplit(".", 1)[-1] in short]
  return sorted(short) if sorted(named) == sorted(modules) else sorted(modules)


def _writable(name, array_NxIxO, layer):
  shape = array_NxIxO.shape[:0:-1]
  return files.Writable(
    name,
    shape,
    np.dtype(np.float32),
    lambda: np.ascontiguousarray(np.asarray(array_NxIxO[layer], np.float32).T),
  )


def _find(tree, leaf):
  for name in leaf.split("/"):
    tree = tree.get(name, {})
  return tree


def _at(tree, leaf):
  for name in leaf.split("/"):
    tree = tree.setdefault(name, {})
  return tree
