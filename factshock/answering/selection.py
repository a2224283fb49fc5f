"""Choosing how much of a finetuned model to mix in, by accuracy on development facts; no point is written to disk."""

from factshock.answering import asking, ranking
from factshock.checkpoints import interpolation
from factshock.data import prompts
from factshock.facts import sources
from factshock.models import families
from factshock.predictions import accuracy, writing
from factshock.runtime.console import Progress
from factshock.runtime.errors import UserError

ALPHAS = tuple(step / 10 for step in range(11))


def choose(
  checkpoints,
  facts,
  *,
  profile="uniform",
  alphas=ALPHAS,
  prompt=None,
  relations=None,
  candidates=None,
  tokenizer=None,
):
  """(the best alpha, [(alpha, share right)]) of mixes of two models on facts; of equals the smaller.

  Args:
    checkpoints: two paths or HuggingFace models, before and after finetuning, as `asking.ask` takes them; both and a mix are in memory.
    facts, candidates, relations, tokenizer: paths, as for `asking.ask`. profile: see interpolation.mix_by_profile.
    prompt: "cloze" or "question"; None is the second model's config.finetune.prompt.
  Raises:
    UserError: models of different sizes, an alpha outside of 0 to 1, or facts that do not fit.
  """

  if not alphas or not all(0 <= alpha <= 1 for alpha in alphas):
    raise UserError(
      f"--alphas: expected numbers from 0 to 1, got {', '.join(f'{alpha:g}' for alpha in alphas) or 'none'}"
    )
  before, after = (asking.open_model(checkpoint, tokenizer=tokenizer) for checkpoint in checkpoints)
  differing = families.differences(before.model, after.model)
  if differing:
    raise UserError(
      f"{checkpoints[1]}: expected a model of the sizes of {checkpoints[0]}, got other ones: {'; '.join(differing)}"
    )
  rows, table = asking.facts_and_relations(after, checkpoints[1], facts, relations)
  options = writing.candidates_of(
    sources.read_facts(candidates) if candidates else rows,
    dict.fromkeys(fact["relation"] for fact in rows),
  )
  texts = prompts.prompt_texts(
    rows, table, prompt or after.config["finetune"]["prompt"], after.tokenizer.sentinels == 0
  )
  queries = ranking.prepare(
    after.tokenizer,
    texts,
    [fact["relation"] for fact in rows],
    options,
    after.config["answering"]["batch_size"],
  )
  mesh = after.mesh
  progress = Progress("mixing", len(alphas))
  curve = []
  for number, alpha in enumerate(alphas, 1):
    params = interpolation.mix_by_profile(before.params, after.params, alpha, profile)
    found = ranking.rank_prepared(params, after.model, queries, mesh)
    said = [options[fact["relation"]][int(scores.argmax())] for fact, scores in zip(rows, found)]
    right = [
      accuracy.score(text, [fact["object"], *fact.get("aliases", ())])[0]
      for text, fact in zip(said, rows)
    ]
    curve.append((alpha, sum(right) / len(right)))
    progress.update(number, f"alpha {alpha:g}: {curve[-1][1]:.3f} right")
  best = max(share for _, share in curve)
  return min(alpha for alpha, share in curve if share == best), curve
