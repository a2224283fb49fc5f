"""Configs: golden expanded forms, overrides, and one clear error for what cannot be used."""

import dataclasses
import importlib
import json
import os
import pathlib
import subprocess
import sys
import unittest.mock

import pytest
from absl import flags

from factshock.checkpoints import manifest_schema
from factshock.configs import real_models
from factshock.models import families
from factshock.runtime import config_files, console
from factshock.runtime.errors import UserError
from factshock.study import checks, finetuning, finetuning_examples, pipeline
from factshock.study import config as configs
from factshock.study.arms import finetune, registry
from factshock.theory import settings as theory_settings
from factshock.training.settings import ARM_SETTINGS, FinetuningConfig, PretrainingConfig

ROOT = pathlib.Path(__file__).parents[1]
NAMES = [path.stem for path in sorted((ROOT / "configs").glob("[!_]*.py"))]
OF_A_MODEL = ("pretrained", "real_models", "which_facts")  # these need to be told which
SIZED = [name for name in NAMES if name not in OF_A_MODEL]


def load(name):
  """Returns a config as it is where no package brings its model."""
  module = importlib.import_module(f"factshock.configs.{name}")
  with unittest.mock.patch.object(real_models, "packaged", lambda package, pattern, hub: hub):
    return module.get_config()


def check(config):
  if config.get("study") == "one_layer":
    theory_settings.check(config)
    return
  finetuning.check(config, 0)
  with config.unlocked():
    config.corpus = config.corpus or ("" if config.facts == "world" else "text.txt")
  checks.check(config)


@pytest.mark.parametrize("name", SIZED)
def test_config_is_usable_and_as_recorded(name):
  """A changed hyper-parameter shows in review: FACTSHOCK_WRITE_GOLDEN=1 records it."""
  check(load(name))
  text = json.dumps(configs.to_dict(load(name)), indent=1, sort_keys=True) + "\n"
  path = ROOT / "tests" / "golden" / f"{name}.json"
  if os.environ.get("FACTSHOCK_WRITE_GOLDEN"):
    path.write_text(text)
  assert text == path.read_text()


@pytest.mark.parametrize("name", SIZED)
def test_checkpoints_of_every_config_can_be_read(name):
  """What a manifest's record may hold is checked on reading: it fits all that configs say."""
  record = {"seed": 0, "arm": "finetune", "experiment": configs.to_dict(load(name))}
  assert list(manifest_schema._record_problems(record)) == []


@pytest.mark.parametrize("name", NAMES)
def test_every_config_says_what_it_is_for(name):
  text = importlib.import_module(f"factshock.configs.{name}").__doc__
  assert "Expect:" in text and "Time:" in text
  assert f"--config={name}" in text or name in ("real_models", "which_facts")


@pytest.mark.parametrize(
  "change, expected",
  [
    (
      lambda c: c.finetune.update(stpes=3),
      "config.finetune.stpes is unknown; did you mean 'steps'",
    ),
    (
      lambda c: c.finetune.update(learning_rate=-1.0),
      "config.finetune.learning_rate: expected a number above 0, got -1.0",
    ),
    (lambda c: c.split.update(test=0.5), "shares that sum to 1, got 1.125"),
    (
      lambda c: c.model.update(feed_forward="swish"),
      "expected one of 'gated-gelu', 'gated-silu', 'relu', got 'swish'",
    ),
    (lambda c: c.update(facts="facts.jsonl"), "needs config.relations=PATH too"),
    (lambda c: c.update(entity_counts="wordfreq:en"), "config.entity_counts go with config.facts="),
    (
      lambda c: c.update(
        facts="facts.jsonl", relations="r.jsonl", tokenizer={**c.tokenizer, "kind": "sentencepiece"}
      ),
      "needs config.corpus=PATH too: a text",
    ),
    (
      lambda c: c.update(facts="facts.jsonl", relations="r.jsonl", corpus="a.txt,b.txt"),
      "config.corpus_weights: expected a weight for each of 2 corpora of config.corpus, got 0",
    ),
    (
      lambda c: c.model.update(family="gpt"),
      f"config.model.family: expected one of {', '.join(families.names())}, got 'gpt'",
    ),
    (lambda c: c.model.update(layers=3), "config.model.layers is unknown; did you mean"),
    (
      lambda c: c.finetune.update(target_length=0),
      "config.finetune.target_length: a t5 needs a whole number of at least 1",
    ),
    (
      lambda c: c.pretrain.update(masking="next_token"),
      "config.pretrain.masking='next_token' needs config.model.family",
    ),
    (
      lambda c: c.tokenizer.update(kind="huggingface"),
      "needs config.tokenizer.path, or config.start_from",
    ),
    (
      lambda c: c.arms.natural.update(kind="finetine"),
      "config.arms.natural.kind: expected one of " + ", ".join(registry.kinds()),
    ),
    (
      lambda c: c.arms.natural.update(ratoi=2.0),
      "config.arms.natural.ratoi is unknown; did you mean 'ratio'",
    ),
    (lambda c: c.arms.weight_mixing.update(of="nothing"), "there is no arm 'nothing'"),
    (
      lambda c: c.arms.weight_mixing.update(of="majority"),
      "expected an arm of kind 'finetune', got 'majority'",
    ),
    (lambda c: c.roles.update(zero_shot="none"), "config.roles.zero_shot: there is no arm 'none'"),
    (
      lambda c: c.mixing.update(alphas=(0.0, 1.5)),
      "config.mixing.alphas: expected a list of at least 1",
    ),
    (
      lambda c: c.pretrain.update(batch_size=0),
      "config.pretrain.batch_size: expected a whole number of at least 1, got 0",
    ),
  ],
)
def test_bad_values_are_named(change, expected):
  config = load("demo")
  with config.unlocked():
    change(config)
  with pytest.raises(UserError, match="the config cannot be used") as error:
    checks.check(config)
  assert expected in str(error.value)


def test_all_problems_are_named_at_once():
  config = load("demo")
  config.world.answers, config.world.zipf = 0, -1.0
  with pytest.raises(UserError) as error:
    checks.check(config)
  assert "config.world.answers" in str(error.value) and "config.world.zipf" in str(error.value)


@pytest.mark.parametrize("value, seeds", [(3, [0, 1, 2]), ((4, 7), [4, 7])])
def test_seeds_are_a_number_or_a_list(value, seeds):
  config = load("demo")
  config.seeds = value
  checks.check(config)
  assert configs.seeds(config) == seeds


@pytest.mark.parametrize(
  "steps, expected",
  [
    (200, [0, 10, 25, 50, 100, 200]),
    (400, [0, 10, 25, 50, 100, 200, 400]),
    (60, [0, 10, 25, 50, 60]),
  ],
)
def test_the_end_of_finetuning_is_always_measured(steps, expected):
  config = load("demo")
  config.finetune.steps = steps
  assert finetune.settings(config, "finetune").eval_steps == tuple(expected)


def test_an_arm_overrides_finetuning_values():
  config = load("demo")
  with config.unlocked():
    config.arms.mixture.learning_rate = 1e-4
  checks.check(config)
  assert finetune.settings(config, "mixture").optimizer.learning_rate == 1e-4
  assert (
    finetune.settings(config, "finetune").optimizer.learning_rate == config.finetune.learning_rate
  )


def test_arms_run_after_those_they_need():
  ordered = pipeline.order(load("demo"))
  assert ordered.index("weight_mixing") > ordered.index("finetune")
  assert ordered.index("combined") > ordered.index("mixture")
  assert sorted(ordered) == sorted(load("demo").arms)


@pytest.mark.parametrize(
  "flags, expected",
  [
    (["--config.finetune.stpes=3"], "--config.finetune.stpes is unknown; did you mean 'steps'?"),
    (["--config.finetune.steps=many"], "config.finetune.steps"),
    (["--nothing=1"], "nothing"),
  ],
)
def test_a_typo_on_the_command_line_is_one_line(flags, expected, tmp_path):
  done = subprocess.run(
    [
      sys.executable,
      "-m",
      "factshock.experiment",
      "--config=configs/demo.py",
      f"--workdir={tmp_path}/w",
      *flags,
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode != 0 and expected in done.stderr and "Traceback" not in done.stderr
  assert not (tmp_path / "w").exists()


def test_batches_are_no_longer_than_their_examples_need():
  finetune = FinetuningConfig.of(load("demo").finetune)
  section = dataclasses.replace(finetune, input_length=40, target_length=16)

  def lengths(needs, text=None):
    fitted = finetuning_examples.fit_lengths(section, needs, text)
    same = dataclasses.replace(fitted, input_length=40, target_length=16)
    assert same == section
    return fitted.input_length, fitted.target_length

  assert lengths((13, 4)) == (16, 8)
  text = dataclasses.replace(finetune, input_length=24, target_length=12)
  assert lengths((13, 4), text)[0] == 24
  # A decoder-only model reads one row of tokens.
  assert lengths((13, 0)) == (16, 0)
  # What does not fit at all is left to the loader, which names the example.
  assert lengths((99, 4))[0] == 40


@pytest.mark.parametrize(
  "name, settings", [("pretrain", PretrainingConfig), ("finetune", FinetuningConfig)]
)
def test_the_settings_of_a_section_are_declared_once(name, settings):
  """Every key of a section is a field of its dataclass or of its optimizer's, and none is
  lacking.
  """
  section = load("demo")[name]
  config = settings.of(section)
  values = dataclasses.asdict(config) | dataclasses.asdict(config.optimizer)
  may_lack = {key for key, check in configs.SCHEMA[name].items() if not check.required}
  assert set(section) | may_lack == set(configs.SCHEMA[name]) == set(values) - set(ARM_SETTINGS)
  assert {key: values[key] for key in section} == section.to_dict()


RAISING = {
  "c = ml_collections.ConfigDict(": ":4: the config cannot be read: '(' was never closed",
  "ml_collections.ConfigDict()['a.b'] = 1": ":4: the config cannot be read: ConfigDict does not",
  "1 / 0": ":4: the config cannot be read: ZeroDivisionError: division by zero",
  "ml_collections.ConfigDict({'a': 1}).a = 'x'": ":4: the config cannot be read: TypeError",
  "import nothing_there": ":4: the config cannot be read: ModuleNotFoundError: No module named",
  "return [1]": "must return an ml_collections.ConfigDict, got list",
  "pass": "must return an ml_collections.ConfigDict, got NoneType",
  "return ml_collections.ConfigDict({1: 2})": "config.1 is unknown",
  "return ml_collections.ConfigDict({'arms': 3})": "config.arms: expected a section with arms",
}


@pytest.mark.parametrize("line", RAISING)
def test_what_a_config_file_raises_is_one_error_with_its_place(line, tmp_path):
  path = tmp_path / "own.py"
  path.write_text(f"import ml_collections\n\ndef get_config():\n  {line}\n", encoding="utf-8")
  values = flags.FlagValues()
  config_files.define_flag("", values)

  with pytest.raises(UserError) as caught:
    console.parse_flags(values, ["experiment", f"--config={path}"])
    checks.check(values.config)

  place = str(path) if RAISING[line].startswith(":") else ""
  assert f"{place}{RAISING[line]}" in str(caught.value)


@pytest.mark.parametrize(
  "flag, reason",
  [
    ("finetun.steps=3", "there is no key 'finetun'; did you mean 'finetune'?"),
    ("finetune.step=3", "there is no key 'step'; did you mean 'steps'?"),
    ("arms.mixture.ratoi=3", "there is no key 'ratoi'; did you mean 'ratio'?"),
    ("xyzxyz=3", "there is no key 'xyzxyz'"),
  ],
)
def test_a_flag_of_a_key_that_the_config_lacks_is_one_line(flag, reason):
  with pytest.raises(UserError) as caught:
    _parsed(ROOT / "configs" / "demo.py", f"--config.{flag}")
  assert str(caught.value) == f"the flags or the config cannot be read: {reason}"


def test_a_variant_that_a_config_file_does_not_take_is_refused():
  with pytest.raises(UserError, match="takes no variant"):
    _parsed(f"{ROOT}/configs/demo.py:text")


def test_a_config_file_without_get_config_is_refused(tmp_path):
  path = tmp_path / "own.py"
  path.write_text("def config():\n  pass\n", encoding="utf-8")
  done = subprocess.run(
    [sys.executable, "-m", "factshock.train", f"--config={path}", "--dry_run"],
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
  assert "must define a function get_config" in done.stderr


def _parsed(config, *more):
  values = flags.FlagValues()
  argv = ["experiment", f"--config={config}", *more]
  config_files.define_flag("", values, argv)
  console.parse_flags(values, argv)
  assert values.config


def test_a_config_file_that_is_not_there_is_one_line():
  done = subprocess.run(
    [sys.executable, "-m", "factshock.train", "--config=nowhere.py", "--workdir=/nonexistent"],
    capture_output=True,
    text=True,
    cwd=pathlib.Path(__file__).parents[1],
  )
  assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
  assert done.stderr.startswith("error: --config=nowhere.py: there is no file nowhere.py;")
