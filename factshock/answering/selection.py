"""Choice of how much of a finetuned model to mix in, by accuracy on development facts.

No mix is written to disk.
"""

import dataclasses
from collections.abc import Sequence

from factshock.answering import best_first, known_answers, ranking
from factshock.answering.prompting import Prompting, PromptWriter
from factshock.checkpoints import interpolation, loading
from factshock.checkpoints.loading import LoadedModel, Origin
from factshock.data import prompts
from factshock.facts import sources
from factshock.models import families
from factshock.predictions import accuracy
from factshock.runtime import messages
from factshock.runtime.errors import UserError
from factshock.runtime.progress import Progress
from factshock.types import Candidates, Fact

ALPHAS = tuple(step / 10 for step in range(11))


@dataclasses.dataclass(frozen=True)
class SelectionOptions:
  """Says which mixes are tried and how the facts are put to them.

  Attributes:
    profile: how alpha goes through the layers; see interpolation.mix_by_profile.
    alphas: shares of the finetuned model, 0 to 1.
    prompt: "cloze" or "question"; None is the finetuned model's config.finetune.prompt.
    relations: path of the relations; None is those of the data set or of the finetuned model.
    candidates: path of facts whose objects are candidates too, beside those of the facts themselves
      and of the finetuned model's workdir; None adds none.
    candidates_only: whether the objects of `candidates` are the candidates alone.
    tokenizer: folder of the tokenizer; None is the models' own.
  """

  profile: str = "uniform"
  alphas: Sequence[float] = ALPHAS
  prompt: str | None = None
  relations: str | None = None
  candidates: str | None = None
  candidates_only: bool = False
  tokenizer: str | None = None


def choose(
  checkpoints: Sequence[str],
  facts: str,
  options: SelectionOptions = SelectionOptions(),
) -> tuple[float, list[tuple[float, float]]]:
  """Returns the best alpha of mixes of two models on facts, and the curve; of equals the smaller.

  Args:
    checkpoints: two paths or HuggingFace models, before and after finetuning; both and a mix are in
      memory.
    facts: path of the facts, or a data set.
    options: which mixes are tried and how.

  Returns:
    The alpha, and (alpha, share of right answers) of each.

  Raises:
    UserError: models of different sizes, an alpha outside of 0 to 1, or facts that do not fit.
  """
  alphas = options.alphas
  _check_alphas(alphas)
  before, _ = loading.open_model(checkpoints[0], tokenizer=options.tokenizer)
  after, origin = loading.open_model(checkpoints[1], tokenizer=options.tokenizer)
  _check_sizes(checkpoints, before, after)
  counter = prompts.token_counter(after.tokenizer)
  rows, relations = sources.read_with_relations(
    facts, options.relations, origin.relations_path, counter
  )
  names = [fact["relation"] for fact in rows]
  candidates = _candidates(rows, facts, origin, options, counter)
  form = options.prompt or origin.prompt
  texts = PromptWriter.of(after, form, Prompting()).write(rows, relations)
  stops = origin.stops(form)
  queries = ranking.prepare(after, texts, names, candidates, origin.batch_size, stops, top=1)
  progress = Progress("mixing", len(alphas))
  curve = []
  params = None
  for count, alpha in enumerate(alphas, 1):
    params = interpolation.mix_by_profile(
      before.params, after.params, alpha, options.profile, into=params
    )
    best = best_first.list_best(after.with_params(params), queries)
    share = _share_right(rows, candidates, best)
    curve.append((alpha, share))
    progress.update(count, f"alpha {alpha:g}: {share:.3f} right")
  return _best_alpha(curve), curve


def choose_mix(
  checkpoints: Sequence[str],
  facts: str,
  options: SelectionOptions = SelectionOptions(),
) -> tuple[list[float] | None, list[float] | None]:
  """Returns the mix of two models with the share that `choose` finds best, and tells the curve.

  Returns:
    (weights, layerwise) of mixing.mix_checkpoints, of which one is None.
  """
  alpha, curve = choose(checkpoints, facts, options)
  points = ", ".join(f"{x:g} {share:.3f}" for x, share in curve)
  profile = "" if options.profile == "uniform" else f", {options.profile} in depth"
  messages.say(f"right on development by alpha: {points}; alpha {alpha:g} is taken{profile}")
  if options.profile == "uniform":
    return [1 - alpha, alpha], None
  return None, list(interpolation.layer_alphas(alpha, options.profile))


def _candidates(
  rows: Sequence[Fact],
  facts: str,
  origin: Origin,
  options: SelectionOptions,
  counter: sources.CountTokens,
) -> Candidates:
  """Returns the answers that are compared: those of a file alone, or all that are known."""
  names = [fact["relation"] for fact in rows]
  if options.candidates and options.candidates_only:
    return known_answers.of_file(options.candidates, names, rows, counter)
  return known_answers.of_relations(rows, facts, names, origin, [options.candidates], counter)


def _best_alpha(curve: Sequence[tuple[float, float]]) -> float:
  """Returns the alpha with the largest share of right answers, of equals the smallest."""
  best = max(share for _, share in curve)
  return min(alpha for alpha, share in curve if share == best)


def _check_alphas(alphas: Sequence[float]) -> None:
  are_shares = all(0 <= alpha <= 1 for alpha in alphas)
  if not alphas or not are_shares:
    shown = ", ".join(f"{alpha:g}" for alpha in alphas) or "none"
    raise UserError(f"--alphas: expected numbers from 0 to 1, got {shown}")


def _check_sizes(
  checkpoints: Sequence[str],
  before: LoadedModel,
  after: LoadedModel,
) -> None:
  """Checks that two models are of the same sizes.

  Raises:
    UserError: names every size in which they differ.
  """
  differing = families.differences(before.model_config, after.model_config)
  if differing:
    raise UserError(
      f"{checkpoints[1]}: expected a model of the sizes of {checkpoints[0]}, got other ones: "
      f"{'; '.join(differing)}"
    )


def _share_right(
  facts: Sequence[Fact],
  candidates: Candidates,
  best: Sequence[ranking.Listed],
) -> float:
  """Returns the share of facts whose best candidate is the object or an alias."""
  right = []
  for fact, listed in zip(facts, best):
    answer = candidates[fact["relation"]][listed.best]
    accepted = [fact["object"], *fact.get("aliases", ())]
    is_right, *_ = accuracy.score(answer, accepted)
    right.append(is_right)
  return sum(right) / len(right)
