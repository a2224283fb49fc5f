"""Model cards: what they say of base, data, arm, scores and mix; and their way to the hub."""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import types
import unittest.mock

import hub_stand_in
import huggingface_hub
import jax
import numpy as np
import pytest
import tiny
from absl import flags
from huggingface_hub.utils import filter_repo_objects
from hypothesis import given, settings
from hypothesis import strategies as st

import factshock as fs
from factshock.checkpoints import conversion, hub_upload, mixing, model_card, origins, store
from factshock.models import t5
from factshock.models.formats import huggingface
from factshock.models.formats.huggingface import names
from factshock.runtime import console
from factshock.runtime.errors import UserError
from factshock.study import config as configs

convert_verb = importlib.import_module("factshock.convert")
mix_verb = importlib.import_module("factshock.mix")
T5 = t5.T5Config(
  vocab_size=67, d_model=8, d_ff=8, num_heads=2, d_kv=4, encoder_layers=1, decoder_layers=1
)
BASE_CARD = """---
license: other
license_name: gemma
license_link: https://example.org/terms
---
# The base
"""


def params(seed=0):
  return jax.tree.map(np.asarray, t5.init(T5, jax.random.key(seed)))


def estimate(mean):
  return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "by_seed": {"0": mean}}


@pytest.fixture
def base(tmp_path):
  """A pretrained model with a card of its own."""
  huggingface.save(tmp_path / "base", params(), T5)
  (tmp_path / "base" / "README.md").write_text(BASE_CARD)
  return tmp_path / "base"


def study(workdir, start_from=""):
  """A workdir with the checkpoints of two arms and a diagnosis."""
  config = configs.to_dict(tiny.get_config())
  config["model"] = {"family": "t5", **dataclasses.asdict(T5), "vocab_size": 0}
  config["start_from"] = str(start_from)
  record = {"seed": 0, "workdir": str(workdir), "experiment": config}
  for seed, arm in enumerate(("pretrained", "finetune")):
    store.save(
      workdir / "checkpoints" / arm / "0", 8, params=params(seed), config={"arm": arm, **record}
    )
  (workdir / "tokenizers").mkdir()
  diagnosis = {
    "arms": {
      "zero_shot_cloze": {"right": estimate(0.7), "queries": 40},
      "finetune": {"right": estimate(0.25), "queries": 40},
      "mixture": {"right": None},
    },
    "table": ["zero_shot_cloze", "finetune", "mixture"],
    "titles": {"zero_shot_cloze": "Zero-shot | cloze", "finetune": "Finetuning"},
    "seeds": [0],
    "confidence": 0.95,
    "verdict": {"text": "Finetuning did harm."},
    "run": {"facts": {"pool": 80, "test": 40}},
  }
  (workdir / "diagnosis.json").write_text(json.dumps(diagnosis))
  return workdir


def card_of(folder):
  """The card of a folder, as the hub's own reader takes it."""
  return huggingface_hub.ModelCard.load(folder / "README.md")


def test_a_converted_arm_tells_base_data_training_and_scores(tmp_path, base):
  workdir = study(tmp_path / "run", start_from=base)
  conversion.convert(workdir / "checkpoints" / "finetune" / "0", tmp_path / "mine", "huggingface")

  card = card_of(tmp_path / "mine")
  assert card.data.license == "other" and card.data.license_name == "gemma"
  assert card.data.license_link == "https://example.org/terms"
  assert card.data.library_name == "transformers"
  assert card.data.pipeline_tag == "text2text-generation"
  text = card.text
  assert "# mine\n" in text and "Finetuning (the arm `finetune` of the study" in text
  assert "Made from `base`, under [gemma](https://example.org/terms)" in text
  assert "sets of facts: pool 80, test 40" in text and "finetuned on the set: balanced" in text
  assert "| steps | 8 |" in text and "| prompt | question |" in text
  assert "| Zero-shot   cloze | 70.0 | 60.0 to 80.0 | 40 |" in text
  assert "| **Finetuning** | **25.0** | **15.0 to 35.0** | **40** |" in text
  assert "Finetuning did harm." in text
  assert str(tmp_path) not in card.content  # paths are nobody's business


def test_a_model_from_random_weights_says_that_no_licence_binds_it(tmp_path):
  workdir = study(tmp_path / "run")
  conversion.convert(workdir / "checkpoints" / "finetune" / "0", tmp_path / "mine", "huggingface")
  card = card_of(tmp_path / "mine")
  assert card.data.license is None and card.data.base_model is None
  assert "trained from random weights" in card.text


def test_a_base_without_a_known_licence_is_said(tmp_path, base):
  (base / "README.md").unlink()
  conversion.convert(base, tmp_path / "copy", "huggingface")
  assert "licence could not be read here" in card_of(tmp_path / "copy").text


def test_a_study_without_scores_is_said(tmp_path, capsys):
  workdir = study(tmp_path / "run")
  (workdir / "diagnosis.json").write_text("{oops")
  conversion.convert(workdir / "checkpoints" / "finetune" / "0", tmp_path / "mine", "huggingface")
  assert "Not measured" in card_of(tmp_path / "mine").text
  assert "the model card will be without scores" in capsys.readouterr().err


@settings(max_examples=150, deadline=None)
@given(
  changes=st.dictionaries(
    st.sampled_from(["arms", "table", "titles", "seeds", "confidence", "verdict", "run"]),
    st.recursive(
      st.none() | st.integers() | st.text(max_size=3),
      lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["finetune", "right", "mean", "facts", "text"]), inner)
      ),
    ),
  )
)
def test_a_diagnosis_of_any_shape_makes_a_card(changes):
  estimates = {"finetune": {"right": estimate(0.5), "queries": 3}}
  record = {"arm": "finetune", "experiment": configs.to_dict(tiny.get_config())}
  origin = origins.Origin("x", record=record, diagnosis={"arms": estimates, **changes})
  text = model_card.text_of("x", origin, T5)
  assert text.startswith("---\n") and "## Data" in text


def test_base_and_licence_live_through_our_own_format(tmp_path, base):
  conversion.convert(base, tmp_path / "ours", "orbax")
  conversion.convert(tmp_path / "ours", tmp_path / "back", "huggingface")
  assert card_of(tmp_path / "back").data.license_name == "gemma"
  assert "Made from `base`" in card_of(tmp_path / "back").text


def test_a_mix_of_arms_tells_shares_and_scores_before_and_after_conversion(tmp_path, base):
  workdir = study(tmp_path / "run", start_from=base)
  arms = [workdir / "checkpoints" / arm / "0" for arm in ("pretrained", "finetune")]
  record = mixing.mix_checkpoints(arms, [0.6, 0.4], tmp_path / "mixed")
  conversion.convert(tmp_path / "mixed", tmp_path / "mine", "huggingface")
  for folder, library in (("mixed", "factshock"), ("mine", "transformers")):
    card = card_of(tmp_path / folder)
    digests = [entry["digest"][:16] for entry in record["inputs"]]
    assert f"| 0.6 | `pretrained of seed 0` | 8 | `{digests[0]}` |" in card.text
    assert f"| 0.4 | `finetune of seed 0` | 8 | `{digests[1]}` |" in card.text
    assert "Zero-shot" in card.text and "none is this very mix" in card.text
    assert "finetuned on the set: balanced" in card.text
    assert "Of `finetune of seed 0`:\n\n| setting | value |" in card.text
    assert card.data.license_name == "gemma" and card.data.library_name == library
    assert str(tmp_path) not in card.content


def test_a_mix_of_models_has_a_licence_only_where_all_have_it(tmp_path, base):
  huggingface.save(tmp_path / "other", params(1), T5)
  (tmp_path / "other" / "README.md").write_text(BASE_CARD)
  mixing.mix_checkpoints([base, tmp_path / "other"], None, tmp_path / "one", layerwise=[0.9, 0.1])
  card = card_of(tmp_path / "one")
  assert card.data.license_name == "gemma" and "merge" in card.data.tags
  assert "linearly in depth from 0.9 at the embedding to 0.1" in card.text
  assert "Made from `base`, `other`" in card.text

  (tmp_path / "other" / "README.md").write_text("---\nlicense: mit\n---\n")
  mixing.mix_checkpoints([base, tmp_path / "other"], "uniform", tmp_path / "two")
  assert card_of(tmp_path / "two").data.license is None
  assert "| 0.5 | `other` |" in card_of(tmp_path / "two").text


def test_adapters_have_a_card_for_peft(tmp_path, base):
  adapters = tmp_path / "adapters"
  leaf = next(name for name in names.by_leaf(T5) if name.endswith("query"))
  *path, last = leaf.split("/")
  tree = {last: {"a": np.ones((1, 8, 2), np.float32), "b": np.ones((1, 2, 8), np.float32)}}
  for name in reversed(path):
    tree = {name: tree}
  huggingface.write_adapters(adapters, huggingface.Adapters(tree, 2, 4.0, str(base)), T5)
  conversion.convert(adapters, tmp_path / "again", "peft")
  card = card_of(tmp_path / "again")
  assert card.data.library_name == "peft" and "AutoPeftModelForSeq2SeqLM" in card.text
  assert card.data.license_name == "gemma"


def test_hub_ids_are_named_and_cached_folders_are_called_by_them(tmp_path):
  cached = tmp_path / "models--google--t5-v1_1-small" / "snapshots" / "ab12"
  huggingface.save(cached, params(), T5)
  (cached / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
  conversion.convert(cached, tmp_path / "mine", "huggingface")
  card = card_of(tmp_path / "mine")
  assert card.data.base_model == ["google/t5-v1_1-small"] and card.data.license == "apache-2.0"
  assert "https://huggingface.co/google/t5-v1_1-small" in card.text


def test_a_broken_card_of_the_base_gives_no_licence(tmp_path):
  path = tmp_path / "README.md"
  for text in ("---\nlicense: [\n---\n", "no head", "---\n- a\n---\n", "\0"):
    path.write_text(text)
    assert origins.licence_of(str(tmp_path)) == {}


# --- the hub


@pytest.fixture
def hub(monkeypatch):
  """A stand-in for the hub's client, with its own signatures."""
  client = unittest.mock.create_autospec(huggingface_hub.HfApi, instance=True)
  client.repo_exists.return_value = False
  client.upload_folder.return_value = types.SimpleNamespace(commit_url="https://hub/org/mine/c1")
  monkeypatch.setattr(huggingface_hub, "HfApi", lambda **options: client)
  return client


def convert(**values):
  """Runs the verb with flags of these values, in this process."""
  _run(convert_verb, "convert", values)


def mix(**values):
  _run(mix_verb, "mix", values)


def _run(verb, name, given):
  values = flags.FlagValues()
  define = {
    kind: getattr(flags, kind)
    for kind in ("DEFINE_string", "DEFINE_list", "DEFINE_enum", "DEFINE_bool")
  }
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(flags, "FLAGS", values)
    for kind, original in define.items():
      patch.setattr(
        flags, kind, lambda *some, original=original: original(*some, flag_values=values)
      )
    verb.define_flags()
    console.parse_flags(values, [name, *(f"--{key}={value}" for key, value in given.items())])
    verb.main([name])


def test_a_converted_model_is_uploaded_to_a_new_private_repository(tmp_path, base, hub, capsys):
  output = tmp_path / "mine"
  convert(model=base, output=output, to="huggingface", push_to_hub="org/mine")
  hub.create_repo.assert_called_once_with("org/mine", private=True, exist_ok=True)
  sent = hub.upload_folder.call_args.kwargs
  assert (sent["repo_id"], sent["folder_path"]) == ("org/mine", str(output))
  said = capsys.readouterr().out
  assert f"uploaded {output} to org/mine, a new, private one: https://hub/org/mine/c1" in said


def test_the_hubs_own_client_uploads_with_the_token_of_the_environment(tmp_path, base):
  command = [sys.executable, "-m", "factshock", "convert", "--to=huggingface"]
  flags_of_run = [f"--model={base}", f"--output={tmp_path / 'mine'}", "--push_to_hub=org/mine"]
  with hub_stand_in.serving() as server:
    variables = {
      "HF_ENDPOINT": server.url,
      "HF_HUB_OFFLINE": "0",
      "HF_HUB_DISABLE_XET": "1",
      "HF_HOME": str(tmp_path / "home"),
      "HF_TOKEN": "hf_of_the_environment",
    }
    done = subprocess.run(
      [*command, *flags_of_run],
      capture_output=True,
      text=True,
      env={**os.environ, **variables},
    )
  assert done.returncode == 0, done.stderr
  assert f"a new, private one: {server.url}/org/mine/commit/ab12" in done.stdout
  assert server.created == [{"name": "mine", "organization": "org", "visibility": "private"}]
  written = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
  assert server.files == written and "README.md" in written
  tokens = {token for _, path, token in server.asked if "org/mine" in path or "whoami" in path}
  assert tokens == {"Bearer hf_of_the_environment"}
  assert "hf_of_the_environment" not in done.stdout + done.stderr


def test_a_repository_that_is_there_gets_a_commit(tmp_path, base, hub, capsys):
  hub.repo_exists.return_value = True
  convert(model=base, output=tmp_path / "mine", to="huggingface", push_to_hub="org/mine")
  hub.create_repo.assert_called_once_with("org/mine", private=None, exist_ok=True)
  assert "a new commit of the repository that was there" in capsys.readouterr().out


def test_a_mix_is_uploaded_without_the_paths_of_this_machine(tmp_path, base, hub):
  huggingface.save(tmp_path / "other", params(1), T5)
  output = tmp_path / "mixed"
  models = f"{base},{tmp_path / 'other'}"
  mix(models=models, weights="0.5,0.5", output=output, push_to_hub="org/mine")
  ignored = hub.upload_folder.call_args.kwargs["ignore_patterns"]
  sent = set(filter_repo_objects([path.name for path in output.iterdir()], ignore_patterns=ignored))
  assert sent == {"README.md", "config.json", "model.safetensors"}
  for name in ("README.md", "config.json"):
    assert str(tmp_path) not in (output / name).read_text()


def test_python_uploads_as_the_verbs_do(tmp_path, base, hub, capsys):
  lines = []
  with fs.messages_to(lines.append):
    fs.convert(base, tmp_path / "mine", "huggingface", push_to_hub="org/mine")
    huggingface.save(tmp_path / "other", params(1), T5)
    fs.mix([base, tmp_path / "other"], [0.5, 0.5], tmp_path / "mixed", push_to_hub="org/mixed")
  sent = [call.kwargs for call in hub.upload_folder.call_args_list]
  assert [call["repo_id"] for call in sent] == ["org/mine", "org/mixed"]
  assert [call["folder_path"] for call in sent] == [
    str(tmp_path / name) for name in ("mine", "mixed")
  ]
  assert f"uploaded {tmp_path / 'mine'} to org/mine, a new, private one" in "\n".join(lines)
  assert capsys.readouterr().out == ""
  with pytest.raises(UserError, match="^push_to_hub: expected to='huggingface', got to='orbax'"):
    fs.convert(base, tmp_path / "own", "orbax", push_to_hub="org/mine")
  with pytest.raises(UserError, match="^push_to_hub: expected org/name"):
    fs.convert(base, tmp_path / "own", "huggingface", push_to_hub="mine")
  own = fs.convert(base, tmp_path / "own", "orbax")
  with pytest.raises(UserError, match="^push_to_hub: .* factshock convert --model=MIX --output"):
    fs.mix([own, own], "uniform", tmp_path / "both", push_to_hub="org/mine")
  assert not (tmp_path / "both").exists()


@pytest.mark.parametrize("name", ["mine", "a/b/c", "org/", "org/mi ne", "-/-"])
def test_a_name_that_is_none_is_refused_before_any_work(tmp_path, base, hub, name):
  with pytest.raises(UserError, match="--push_to_hub: expected org/name"):
    convert(model=base, output=tmp_path / "mine", to="huggingface", push_to_hub=name)
  assert not (tmp_path / "mine").exists()


def test_without_a_login_nothing_is_written(tmp_path, base, hub):
  hub.whoami.side_effect = huggingface_hub.errors.LocalTokenNotFoundError("Token is required")
  with pytest.raises(UserError, match="no login .*Token is required.*hf auth login.*HF_TOKEN"):
    convert(model=base, output=tmp_path / "mine", to="huggingface", push_to_hub="org/mine")
  assert not (tmp_path / "mine").exists()


def test_what_the_hub_refuses_stays_written(tmp_path, base, hub):
  hub.upload_folder.side_effect = OSError("403 Forbidden")
  with pytest.raises(
    UserError, match="403 Forbidden; the model is written to .*hf upload org/mine"
  ):
    convert(model=base, output=tmp_path / "mine", to="huggingface", push_to_hub="org/mine")
  assert (tmp_path / "mine" / "model.safetensors").exists()


def test_only_what_the_hub_takes_is_pushed(tmp_path, base, hub):
  with pytest.raises(UserError, match="--push_to_hub: expected --to=huggingface, got --to=orbax"):
    convert(model=base, output=tmp_path / "mine", to="orbax", push_to_hub="org/mine")
  workdir = study(tmp_path / "run")
  models = ",".join(str(workdir / "checkpoints" / arm) for arm in ("pretrained/0", "finetune/0"))
  with pytest.raises(UserError, match="is a checkpoint of factshock, .*--to=huggingface --push_to"):
    mix(models=models, weights="uniform", output=tmp_path / "mixed", push_to_hub="org/mine")
  assert not (tmp_path / "mixed").exists() and not hub.mock_calls


def test_the_token_is_never_ours_to_give(hub, monkeypatch):
  """No verb has a flag for it, and the client is made without one: it asks its environment."""
  made = []
  monkeypatch.setattr(huggingface_hub, "HfApi", lambda **options: made.append(options) or hub)
  hub_upload.Upload("org/mine")
  assert made == [{"library_name": "factshock"}]
