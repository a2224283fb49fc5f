"""Page docs/config_reference.md, made of the schema of configs and of the demo's values.

python tests/helpers/config_reference.py     # writes it anew, with PYTHONPATH=.
"""

import pathlib
from collections.abc import Iterator

from factshock.configs import demo
from factshock.models import families
from factshock.runtime.settings import NO_DEFAULT, Check
from factshock.study import config as configs
from factshock.study import reference
from factshock.study.arms import registry

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "config_reference.md"
_HEAD = """# Every key of a config

<!-- Made by tests/helpers/config_reference.py: change the meanings where the keys are declared. -->

```console
$ factshock configs demo | grep -A 1 'config.finetune.steps='
  --config.finetune.steps=200
      Length of the training in steps, at which the schedule ends. [a whole number of at least 0]
```

`factshock configs NAME` prints this list with the values of any config, your own file too. Each
key is set on the command line, as here, or in a config file, `config.finetune.steps = 400`: see
[experiments](experiments.md#change-something). Values are those of `demo`. Wrong keys and values
are refused before any work, all at once. Configs that go with a data set or a pretrained model
have the same keys; the config of the theory, `one_layer`, has its own: `factshock configs
one_layer`.
"""


def page() -> str:
  """Returns the page's text."""
  return "\n".join([_HEAD, *_sections(), *_models(), *_arms()]) + "\n"


def _sections() -> Iterator[str]:
  """Yields the lines on all sections but the model's and the arms."""
  section = None
  for key in reference.keys(demo.get_config()):
    own, _, name = key.path.rpartition(".")
    if own == "model":
      continue
    if own != section:
      section = own
      title = f"`config.{own}`" if own else "The study"
      yield f"\n## {title}\n\n| key | demo | says | may be |\n|---|---|---|---|"
    value = "" if key.value is reference.MISSING else f"`{key.value!r}`"
    yield _row(f"`{name}`", value, key.check)


def _models() -> Iterator[str]:
  """Yields the lines on the model section of each family."""
  yield "\n## `config.model`\n\nWhich keys there are depends on `family`."
  texts: dict[str, list[str]] = {}
  for family in families.names():
    rows = [
      _row(f"`{name}`", _default(check), check)
      for name, check in families.section_schema(family).items()
      if isinstance(check, Check)
    ]
    texts.setdefault("\n".join(rows), []).append(family)
  for rows, names in texts.items():
    yield f"\n### {', '.join(names)}\n\n| key | left out | says | may be |"
    yield f"|---|---|---|---|\n{rows}"


def _arms() -> Iterator[str]:
  """Yields the lines on the keys of arms, by kind."""
  yield "\n## `config.arms.NAME`\n\nKeys depend on the arm's `kind`. Every arm may have:\n"
  yield "| key | must be there | says | may be |\n|---|---|---|---|"
  yield from _arm_rows(configs.arm_schema())
  for kind in registry.kinds().values():
    yield f"\n### kind `{kind.name}`\n\n{kind.caption}"
    if kind.trains:
      yield "\nEvery key of `config.finetune` may stand here, in whose place it counts."
    if keys := reference.kind_keys(kind):
      yield "\n| key | must be there | says | may be |\n|---|---|---|---|"
      yield from _arm_rows({n: k for n, k in keys.items() if n not in configs.arm_schema()})


def _arm_rows(keys: configs.ArmSchema) -> Iterator[str]:
  """Yields a row for each key of an arm."""
  for name, key in keys.items():
    yield _row(f"`{name}`", "yes" if key.is_required else "", key.check)


def _default(check: Check) -> str:
  """Returns what a key is where it is left out, "" where it may not be."""
  return "" if check.default is NO_DEFAULT else f"`{check.default!r}`"


def _row(name: str, value: str, check: Check) -> str:
  """Returns the row of a table; bars in it are no borders of cells."""
  cells = [name, value, f"{check.meaning[:1].upper()}{check.meaning[1:]}", check.expected]
  return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


if __name__ == "__main__":
  PAGE.write_text(page(), encoding="utf-8")
