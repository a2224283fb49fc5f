"""Our models as the `factshock` model of the lm-evaluation-harness: T5, Llama and Mistral.

A decoder-only model reads a context as it is, BOS before it where it has one. A T5 reads the context with
<extra_id_0> after it (or where the context holds one already), as our own prompts do, and says the
continuation after <extra_id_0>, which itself does not count. A context that is too long for a decoder-only
model loses its first tokens, as in the harness's own models; how many did is printed.
"""

from lm_eval import utils
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from factshock.answering import asking, batches, decoding, likelihoods
from factshock.data import decoder_text, prompts
from factshock.runtime.console import Progress
from factshock.runtime.errors import UserError

CHUNK = 16  # batches of prompts between two lines of progress
GENERATION = ("until", "max_gen_toks", "do_sample", "temperature")
GREEDY = ("top_p", "top_k", "min_p")  # which mean nothing where nothing is sampled


@register_model("factshock")
class FactshockLM(LM):
  """A checkpoint of ours or a HuggingFace folder or hub id, to be asked by the harness.

  Args:
    checkpoint: as --checkpoint of factshock.answer. tokenizer: as there; the checkpoint's own by default.
    batch_size: continuations or prompts at a time. max_gen_toks: tokens generated where a task names no number.
    seed: of sampling, where a task asks for a temperature above 0.
  Raises:
    UserError: nothing at the checkpoint, or values that cannot be.
  """

  def __init__(
    self,
    checkpoint=None,
    tokenizer=None,
    batch_size=None,
    max_gen_toks=256,
    seed=0,
    device=None,
    max_batch_size=None,
  ):
    super().__init__()
    if checkpoint is None:
      raise UserError(
        "--model_args: expected checkpoint=PATH, a checkpoint's folder or a HuggingFace model; got none"
      )
    # The harness gives these to every model; JAX takes the devices it finds, and batches are not sized anew.
    del device, max_batch_size
    self.asked = asking.open_model(str(checkpoint), None, tokenizer)
    self.batch_size = _batch_size(batch_size)
    self.max_gen_toks = int(max_gen_toks)
    self.seed = int(seed)
    self.decoder_only = batches.is_decoder_only(self.asked.tokenizer)

  def loglikelihood(self, requests, disable_tqdm=False):
    """[(log-probability, whether greedy decoding says it)] of continuations; requests are (context, continuation)."""
    tokenizer = self.asked.tokenizer
    pairs = [encode_pair(tokenizer, *request.args) for request in requests]
    before, cut = self._fitting(
      tokenizer, [before for before, _ in pairs], [len(after) for _, after in pairs]
    )
    _say_cut(cut, len(pairs))
    scores, greedy = likelihoods.score(
      *self.asked[:3],
      [(inputs, after) for inputs, (_, after) in zip(before, pairs)],
      batch_size=self.batch_size,
      mesh=self.asked.mesh,
      progress=_progress("scoring", len(pairs), disable_tqdm),
    )
    return [(float(score), bool(likeliest)) for score, likeliest in zip(scores, greedy)]

  def loglikelihood_rolling(self, requests, disable_tqdm=False):
    """[log-probability of a whole text], in windows as long as the model reads, each token once; decoder-only."""
    if not self.decoder_only:
      raise UserError(
        "perplexity of whole texts: expected a decoder-only model, as a T5 reads an input and fills its "
        "blanks; got a T5; choose tasks that ask for continuations or answers"
      )
    tokenizer = self.asked.tokenizer
    longest = self.asked.model.max_length
    rows = []
    counted = []
    of = []
    for number, request in enumerate(requests):
      windows = utils.get_rolling_token_windows(
        tokenizer.encode(request.args[-1]),
        prefix_token=_prefix(tokenizer),
        max_seq_len=longest,
        context_len=1,
      )
      for before, after in map(utils.make_disjoint_window, windows):
        rows.append([*before, *after])
        counted.append(len(after))
        of.append(number)
    scores = likelihoods.whole(
      self.asked.params,
      self.asked.model,
      rows,
      counted,
      batch_size=self.batch_size,
      mesh=self.asked.mesh,
      progress=_progress("reading", len(rows), disable_tqdm),
    )
    totals = [0.0] * len(requests)
    for number, score in zip(of, scores):
      totals[number] += float(score)
    return totals

  def generate_until(self, requests, disable_tqdm=False):
    """[text generated after the context, up to the first of `until`] of requests (context, generation arguments)."""
    found = [None] * len(requests)
    groups = {}
    for place, request in enumerate(requests):
      groups.setdefault(self._generation(request.args[1]), []).append(place)
    progress = _progress("generating", len(requests), disable_tqdm)
    done = 0
    for (until, length, temperature), places in groups.items():
      tokenizer = self.asked.tokenizer
      encoded = [inputs_of(tokenizer, requests[place].args[0]) for place in places]
      encoded, cut = self._fitting(tokenizer, encoded, [length] * len(places))
      _say_cut(cut, len(places))
      order = sorted(range(len(places)), key=lambda place: len(encoded[place]))
      size = CHUNK * self.batch_size
      for start in range(0, len(order), size):
        part = order[start : start + size]
        texts = self._generate(
          [encoded[place] for place in part], until, length, temperature, self.seed + start // size
        )
        for place, text in zip(part, texts):
          found[places[place]] = text
        done += len(part)
        if progress:
          progress(done)
    return found

  def _generate(self, encoded, until, length, temperature, seed):
    params, model, tokenizer = self.asked[:3]
    batches.check_vocabulary(tokenizer.size, model)
    tokens, _ = decoding.sample(
      params,
      model,
      encoded,
      decoding.end_tokens(tokenizer, until),
      max_length=length,
      batch_size=self.batch_size,
      mesh=self.asked.mesh,
      left=self.decoder_only,
      temperature=temperature,
      seed=seed,
    )
    texts = [tokenizer.decode(decoding.answer_tokens(tokenizer, row)) for row in tokens]
    return [decoding.before_stop(text, until) for text in texts]

  def _generation(self, given):
    """(strings that end a text, most tokens, temperature or 0) of a request's generation arguments."""
    given = {name: value for name, value in given.items() if value is not None}
    until = given.get("until", ())
    temperature = float(given.get("temperature", 1.0 if given.get("do_sample") else 0.0))
    sampled = bool(given.get("do_sample", temperature > 0)) and temperature > 0
    unknown = set(given) - {*GENERATION, *(() if sampled else GREEDY)}
    if unknown:
      raise UserError(
        f"generation arguments: expected some of {', '.join(GENERATION)}, got "
        f"{', '.join(sorted(unknown))}; leave them out of the task or of --gen_kwargs"
      )
    until = (until,) if isinstance(until, str) else tuple(until)
    length = int(given.get("max_gen_toks", self.max_gen_toks))
    if length < 1:
      raise UserError(f"max_gen_toks: expected at least 1, got {length}")
    return tuple(stop for stop in until if stop), length, temperature if sampled else 0.0

  def _fitting(self, tokenizer, encoded, more):
    """(the ends of the contexts that the model can read together with so many tokens `more`, how many were cut)."""
    longest = getattr(self.asked.model, "max_length", None)
    if longest is None:
      return encoded, 0
    if max(more, default=0) >= longest - 1:
      raise UserError(
        f"expected texts to say of fewer than {longest - 1} tokens, as the model reads {longest}, got "
        f"{max(more)}; lower max_gen_toks"
      )
    opening = len(decoder_text.encode_prompt(tokenizer, ""))  # BOS stays
    over = [max(0, len(tokens) + after - longest) for tokens, after in zip(encoded, more)]
    found = [tokens[:opening] + tokens[opening + number :] for tokens, number in zip(encoded, over)]
    return found, sum(number > 0 for number in over)


def inputs_of(tokenizer, context):
  """The token ids that a model reads before a continuation of `context`: see the head of this file."""
  if batches.is_decoder_only(tokenizer):
    return decoder_text.encode_prompt(tokenizer, context) or [_prefix(tokenizer)]
  if context.count(prompts.BLANK) > 1:
    raise UserError(
      f"context {context[-60:]!r}: expected {prompts.BLANK} at most once, got it "
      f"{context.count(prompts.BLANK)} times; ask without answered examples (--num_fewshot 0)"
    )
  text = context if prompts.BLANK in context else f"{context.rstrip()} {prompts.BLANK}".strip()
  return [*tokenizer.encode(text), tokenizer.eos]


def encode_pair(tokenizer, context, continuation):
  """(token ids of the context as a model reads it, of the continuation as it says it).

  White space between the two belongs to the continuation, and a decoder-only model's continuation is what the tokens
  of both have beyond those of the context, as in the harness's own models.

  Raises:
    UserError: a continuation without tokens.
  """
  if batches.is_decoder_only(tokenizer):
    stem = context.rstrip()
    before = tokenizer.encode(stem)
    both = tokenizer.encode(context + continuation)
    inputs = inputs_of(tokenizer, stem)
    after = both[len(before) :]
  else:
    inputs = inputs_of(tokenizer, context)
    after = tokenizer.encode(prompts.target_text(continuation.strip()))
  if len(after) < (1 if batches.is_decoder_only(tokenizer) else 2):
    raise UserError(
      f"context {context[-60:]!r}: expected a continuation with at least one token, got {continuation!r}"
    )
  return inputs, after


def _prefix(tokenizer):
  return tokenizer.eos if tokenizer.bos is None else tokenizer.bos


def _batch_size(given):
  """The number in --batch_size; the default of answering where there is none, or "auto"."""
  text = str(given if given is not None else "auto")
  if text.startswith("auto"):
    return asking.DEFAULTS["answering"]["batch_size"]
  if not text.isdigit() or int(text) < 1:
    raise UserError(f"--batch_size: expected a whole number above 0, got {text!r}")
  return int(text)


def _progress(label, total, silent):
  return None if silent else Progress(label, total).update


def _say_cut(cut, number):
  if cut:
    print(
      f"  {cut:,} of {number:,} contexts are longer than the model reads and lost their first tokens",
      flush=True,
    )
