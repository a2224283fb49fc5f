"""The part `parity` of the check on a GPU: cuDNN takes each of its shapes, and mistakes show."""

import dataclasses
import importlib
import os
import sys

import jax
import numpy as np
import pytest

from factshock.models import decoder, fused
from factshock.runtime.errors import UserError
from gpu import cases, references, results
from gpu.parts import parity

CUDNN = [
  variant
  for name in ("T5", "decoder")
  for variant in parity.variants_of(name, tiny=False)
  if variant.arithmetic == "cudnn"
]


@pytest.fixture
def hopper(monkeypatch):
  """JAX lowers for a Hopper GPU with cuDNN, with neither there."""
  kernel = importlib.import_module("jax._src.cudnn.fused_attention_stablehlo")
  monkeypatch.setattr(kernel, "check_cudnn_version", lambda: 91300)
  monkeypatch.setattr(fused, "backend", lambda: fused.Backend("gpu", (9, 0)))


@pytest.mark.parametrize("variant", CUDNN, ids=lambda variant: variant.name)
def test_cudnn_takes_every_shape(variant, hopper):
  """JAX checks sizes and masks when it lowers: a call forth and one back, T5's with a bias."""
  text = parity.lowered(variant, for_cuda=True).as_text()
  kinds = ("fmhaSoftmax", "fmhaSoftmaxBackward")
  if "encoder_layers" in vars(variant.config):
    kinds += ("fmhaScaleBiasSoftmax", "fmhaScaleBiasSoftmaxBackward")
  for kind in kinds:
    assert f"__cudnn${kind}(" in text or f'"__cudnn${kind}"' in text, kind


def test_odd_lengths_would_stop_in_jax(hopper, monkeypatch):
  """Why fused.choose asks for even lengths: JAX refuses odd ones, with a position bias or not."""
  config = dataclasses.replace(CUDNN[-1].case.config, sliding_window=None)
  case = cases.Case("odd", config, ((63,),))
  variant = parity.Variant(case, (63,), "cudnn")
  with pytest.raises(UserError, match="needs even lengths, got 63"):
    parity.lowered(variant, for_cuda=True)
  monkeypatch.setattr(fused, "kernel", lambda *_, **__: "cudnn")
  with pytest.raises(NotImplementedError, match="Unsupported sequence length"):
    parity.lowered(variant, for_cuda=True)


def test_packed_rows_hold_the_same_examples():
  for name in ("T5", "decoder"):
    for case in cases.cases_of(name, tiny=True):
      batch = cases.batch_of_case(case, case.shapes[0])
      packed = cases.packed(batch)
      for field in ("inputs", "targets", "tokens"):
        if field in batch:
          pad = decoder.PAD if field == "tokens" else 0
          np.testing.assert_array_equal(
            packed[field][packed[field] != pad], batch[field][batch[field] != pad]
          )
      counted = batch["weights"][:, 1 if "tokens" in batch else 0 :].sum()
      assert packed["weights"].sum() == counted


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  pytest.importorskip("torch")
  return tmp_path_factory.mktemp("references")


@pytest.fixture
def arrays(folder, monkeypatch):
  """The references of tiny shapes, made once by the command in a process of its own."""
  path = folder / "references.npz"
  monkeypatch.setenv(references.VARIABLE, str(path))
  monkeypatch.setenv(
    "PYTHONPATH", os.pathsep.join([os.getcwd(), os.path.join(os.getcwd(), "tests")])
  )
  return references.load(tiny=True)


@pytest.mark.slow  # .ci/run compares the same tiny shapes
@pytest.mark.parametrize("name", ["T5", "decoder"])
def test_tiny_shapes_pass_and_what_a_cpu_cannot_run_is_named(name, arrays):
  found = parity.measure(name, "factshock", tiny=True)
  assert not [check for check in found.checks if not check.passed]
  compared = " ".join(check.what for check in found.checks)
  for words in ("highest: loss", "bfloat16: logits", "packed", "remat", "LoRA", "greedy tokens"):
    assert words in compared
  assert any("cudnn" in line for line in found.left_out) and "cudnn" not in compared


def test_a_wrong_weight_or_token_does_not_pass(arrays, monkeypatch):
  """A position bias that is a hundredth off, and a token that is another."""
  case = cases.cases_of("T5", tiny=True)[0]
  variant = parity.Variant(case, case.shapes[0], "highest")
  right = cases.params_of

  def wrong(config):
    params = right(config)
    params["encoder"]["relative_bias"] = params["encoder"]["relative_bias"] * 1.01
    return params

  monkeypatch.setattr(cases, "params_of", wrong)
  monkeypatch.setattr(parity, "variants_of", lambda *_: [variant])
  monkeypatch.setattr(references, "load", lambda tiny: arrays)
  failed = [check.what for check in parity.measure("T5", "", tiny=True).checks if not check.passed]
  assert {"loss", "logits", "encoder/relative_bias"} <= {what.split(": ")[1] for what in failed}
  monkeypatch.setattr(cases, "params_of", right)
  changed = {**arrays, f"{case.name}/tokens": arrays[f"{case.name}/tokens"] + 1}
  assert not parity._greedy(case, changed).passed
  nan = jax.tree.map(lambda leaf: leaf * np.nan, right(case.config))
  assert set(cases.distances(nan, right(case.config)).values()) == {np.inf}


def test_a_program_that_fails_leaves_the_others(arrays, monkeypatch):
  case = cases.cases_of("decoder", tiny=True)[0]
  shape = case.shapes[0]
  wanted = [parity.Variant(case, shape, "cudnn"), parity.Variant(case, shape, "highest")]
  monkeypatch.setattr(parity, "variants_of", lambda *_: wanted)
  # A GPU whose capability is known, on which cuDNN is then missing.
  monkeypatch.setattr(fused, "backend", lambda: fused.Backend("gpu", (9, 0)))
  checks = parity.measure("decoder", "", tiny=True).checks
  failed = [check.what for check in checks if not check.passed]
  assert len(failed) == 1 and failed[0].startswith(f"{wanted[0].name}: RuntimeError: cuDNN")
  assert len(checks) > 3


def test_without_torch_the_error_says_what_to_do(monkeypatch):
  monkeypatch.setitem(sys.modules, "gpu.float64", None)
  with pytest.raises(UserError, match="references: .*where PyTorch and transformers are"):
    references._made(tiny=True)


def test_a_file_of_other_settings_is_left_as_it_is(monkeypatch, tmp_path):
  named = tmp_path / "references.npz"
  monkeypatch.setenv(references.VARIABLE, str(named))
  made = []

  def make(path, tiny):
    made.append(os.path.basename(path))
    np.savez(path, stamp=np.array(references.stamp(tiny)))

  monkeypatch.setattr(references, "_make_apart", make)
  references.load(tiny=False)
  references.load(tiny=False)
  references.load(tiny=True)
  references.load(tiny=True)
  assert made == ["references.npz", f"gpu_references_{references.stamp(True)[:12]}.npz"]
  assert references.is_whole(str(named), tiny=False)
  assert not references.is_whole(str(named), tiny=True)


def test_what_was_left_out_is_shown():
  measurement = results.Measurement("parity", "T5")
  check = dataclasses.asdict(results.Check("logits", float("inf"), 1.0))
  document = {
    "about": {"device": "cpu"},
    "outcomes": {measurement.key: {"checks": [check], "left_out": ["v1.1, cudnn"]}},
  }
  descriptions = {"parity": results.Description("What it is.", {})}
  text = results.markdown(document, [measurement], descriptions, [], None)
  assert "this device cannot run it:\n\n- T5: v1.1, cudnn\n" in text
  assert results.failures([measurement], document["outcomes"]) == ["parity: T5: factshock: logits"]
