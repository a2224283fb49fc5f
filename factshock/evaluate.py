r"""Evaluates a model by the lm-evaluation-harness, on its tasks and on tasks on facts.

    factshock evaluate --model_args checkpoint=google/flan-t5-large --tasks popqa_t5 \
        --metadata popqa=data/popqa.jsonl --output_path results/flan/results.json --log_samples
    factshock evaluate --model_args checkpoint=runs/mine/checkpoints/mixed/0 \
        --tasks trex,arc_easy --metadata trex=data/trex
    factshock diagnose --predictions=results/flan/samples_popqa_t5_DATE.jsonl \
        --output=diagnosis

Every flag is one of `lm_eval run` (`lm_eval run --help` lists them). Defaults that differ: --model
is `factshock`, --include_path the folder of factshock's tasks and --batch_size `auto`, here 64;
--device means nothing, as JAX takes the devices it finds. Keys of --model_args: checkpoint (as
--model of factshock answer, a served model too), tokenizer, dtype (as --answer_dtype there),
max_gen_toks and seed. The tasks on facts, each with its data named in --metadata:

    popqa, popqa_t5                        popqa=PATH (the data set on the hub where left out)
    entityquestions, entityquestions_t5    entityquestions=PATH
    trex, trex_t5                          trex=PATH, ranked over the relation's objects
    lama, lama_t5                          lama=PATH: Google-RE, ConceptNet, SQuAD

Those that end in _t5 ask as factshock asks a T5, by a question or a statement with <extra_id_0> in
place of the answer; the others ask "Q: ...\nA:" or with the statement up to its object. Needs the
extra: pip install 'factshock[lm_eval]'.
"""

import os
import sys
from collections.abc import Sequence

from factshock.runtime.errors import UserError
from factshock.served import endpoints

TASKS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "harness", "tasks")
SERVED = "factshock_served"
DEFAULTS = (
  (("--model", "-M"), "factshock"),
  (("--include_path",), TASKS),
  (("--batch_size", "-b"), "auto"),
)


def define_flags() -> None:
  """Defines no flags: lm_eval parses its own."""


def arguments(given: Sequence[str]) -> list[str]:
  """Returns the arguments of lm_eval: those given, and DEFAULTS where they are not among them."""
  named = {argument.partition("=")[0] for argument in given}
  added: list[str] = []
  for names, value in DEFAULTS:
    if not named & set(names):
      added += [names[0], SERVED if value == "factshock" and _asks_endpoint(given) else value]
  return ["run", *given, *added]


def _asks_endpoint(given: Sequence[str]) -> bool:
  """Returns whether the arguments name a served model as the checkpoint."""
  return any("checkpoint=" + endpoints.PREFIX in argument for argument in given)


def main(argv: Sequence[str]) -> int:
  """Runs lm_eval.

  Args:
    argv: the command line, the program's name first.

  Returns:
    The exit code: 0, 2 for a user's mistake, 130 after Ctrl-C.
  """
  given = argv[1:]
  if not given or set(given) & {"--help", "-h"}:
    print(__doc__)
    return 0
  try:
    _run(arguments(given))
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    return 130
  return 0


def _run(given: Sequence[str]) -> None:
  """Runs lm_eval's command line in this process, with factshock's model known to it."""
  try:
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports] - an extra
  except ImportError as error:
    raise UserError(
      f"needs the lm-evaluation-harness ({error}): pip install 'factshock[lm_eval]'"
    ) from error
  from factshock.harness import language_model, served_model

  assert language_model and served_model  # their import registers the models by their names
  sys.argv = ["lm_eval", *given]
  cli_evaluate()


if __name__ == "__main__":
  sys.exit(main(sys.argv))
