"""`factshock configs`: the list, and the page that explains every key of a config."""

import shlex

import pytest
from absl import flags

from factshock import list_configs
from factshock.runtime import config_files, console
from factshock.runtime.errors import UserError
from factshock.study import config as configs
from factshock.study import reference
from factshock.study.arms import registry

# Those of a model on the hub read its sizes there.
NAMES = [name for name in config_files.names() if name != "pretrained"]


def test_the_list_has_every_config_with_a_sentence(capsys):
  list_configs.main(["configs"])
  printed = capsys.readouterr().out.splitlines()
  lines = dict(line.split(maxsplit=1) for line in printed if line.startswith("  "))
  assert list(lines) == config_files.names() and {"demo", "pretrained"} <= set(lines)
  assert all(summary.endswith((".", "?")) for summary in lines.values())
  assert "which_facts" not in lines, "it has no get_config()"


@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_a_config_is_explained_and_its_flag_gives_its_value(name):
  config = config_files.load(name)
  keys = reference.keys(config)
  assert all(key.check.meaning and key.check.expected for key in keys)
  assert {key.path.partition(".")[0] for key in keys} | {"arms"} >= set(config)
  # A key that is None takes no flag.
  given = [key for key in keys if key.value is not reference.MISSING and key.value is not None]
  again = _load(name, [shlex.split(key.flag)[0] for key in given])
  assert again.to_dict() == config.to_dict()
  assert max(map(len, reference.lines(config))) < 200


def _load(name, arguments):
  values = flags.FlagValues()
  argv = ["experiment", f"--config={name}", *arguments]
  config_files.define_flag("", values, argv)
  console.parse_flags(values, argv)
  return values.config


def test_every_key_of_every_kind_of_arm_is_explained():
  shared = configs.arm_schema()
  for kind in registry.kinds().values():
    for name, key in {**shared, **kind.keys}.items():
      assert key.check.meaning, f"{kind.name}: {name}"


def test_the_page_of_a_config_says_what_keys_are_and_may_be(capsys):
  list_configs.main(["configs", "demo"])
  page = capsys.readouterr().out
  assert page.startswith("demo: Frequency shock and its repair in a synthetic world")
  assert (
    "  --config.world.zipf=1.0\n"
    "      Exponent of the answer frequencies; 0 is uniform. [a number from 0 to 10]\n"
  ) in page
  assert "--config.finetune.lora_targets=\"('query', 'value')\"\n" in page
  assert "--config.finetune.end   (left out: 'auto')\n" in page
  assert "  finetune: kind=finetune facts=balanced group=baseline title=Finetuning\n" in page
  assert "keys of an arm of kind weight_mixing:\n" in page and "kind soup" not in page
  assert "  facts   (required)\n      Set of facts that it learns. [one of 'pool'," in page
  assert "  frozen\n      The weight groups" in page


def test_the_page_of_a_file_of_ones_own(tmp_path, capsys):
  path = tmp_path / "mine.py"
  path.write_text(
    '"""Mine."""\nfrom factshock.configs import demo\n\n'
    "def get_config(steps):\n  config = demo.get_config()\n"
    "  config.finetune.steps = int(steps)\n  return config\n"
  )
  list_configs.main(["configs", f"{path}:77"])
  page = capsys.readouterr().out
  assert page.startswith(f"{path}:77: Mine.\n") and "--config.finetune.steps=77\n" in page


@pytest.mark.parametrize(
  "arguments, words", [(["dem"], "did you mean --config=demo"), (["demo", "x"], "got demo x")]
)
def test_a_name_that_is_none_is_one_error(arguments, words):
  with pytest.raises(UserError, match=words):
    list_configs.main(["configs", *arguments])
