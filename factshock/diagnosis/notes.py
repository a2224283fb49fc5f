"""Definitions of the numbers in diagnosis.json and of calibration, written into the files."""

import textwrap

_TEXT = """
estimates: mean over seeds; low and high are the percentile interval of a bootstrap over queries
  and, with several seeds, over seeds as a second level (seeds drawn with replacement, then
  queries within each, as if seeds had different queries); with few seeds it is on the narrow
  side. null is undefined.
exact_match: the prediction equals the object or one of its aliases after normalisation: Unicode
  NFKC, lower case, punctuation deleted, articles (a, an, the) dropped, white space squeezed. Other
  than in SQuAD the decimal point and the minus of a number stay ("1.5" is not "15"), and # and + at
  the end of a name ("C#" is not "C").
contains: an accepted answer stands in the prediction, both normalised (substring, as in PopQA).
f1: token F1 of normalised texts, best over the accepted answers.
hits: share of queries whose gold answer (or an alias) is among the first k candidates; null where
  a file's longest list is shorter than k.
mrr: mean of 1 / rank of the gold answer, 0 where it is not among the candidates listed.
right: the share of answers that are right by `criterion`: exact_match, or contains; popularity,
  relations, flips, known facts and comparisons go by it.
macro_right, by_relation, by_type: share right within each relation (or discipline), and the plain
  mean of these, over all relations and over those of each type.
by_popularity: quartiles of the popularity of the test queries' subjects, of each seed; queries
  without a popularity are left out.
entity: an answer of a relation: test gold, finetuning answer (of any arm) or counted entity. A
  prediction is matched to it by its normalised name, or by an alias that only one answer of the
  relation has; a text that is more than a name is linked to the answer whose name or alias it
  mentions first (whole words with their case, of several that begin there the longest); other
  predictions belong to no group.
answers: how many predictions are a known answer or right (exact), were linked to one in a text
  (linked), and name none; left out where all are exact.
groups: common: the smallest head set of a relation's answers, by pretraining count, that holds at
  least half of the mentions of the relation's answers (ties by name); rare: the rest; seen: an
  answer of the finetuning facts of that arm and seed; unseen: the rest.
ratio: predicted count / gold count over a group's answers; null without gold answers; the counts
  beside it are summed over seeds.
shock: (predicted - gold share of rare_seen) + (gold - predicted share of common_unseen), shares
  of all queries.
pressure: s(e) = log of the share in finetuning - log of the share in pretraining, within the
  relation, each count plus 1.
slope: least-squares slope of log r(e) = log (predicted + 1) - log (gold + 1) on s(e), over the
  answers that are test gold or finetuning answers, all relations together.
spearman: Spearman correlation of the same, by ranks of exact quotients of counts.
total_variation: half the sum of |predicted - gold share| over (relation, answer); predictions of
  no known answer count as one answer. With few queries an answer it is far from 0 for a perfect
  frequency match too.
range_shift: share of predictions that are finetuning answers of their relation.
mismatch: total variation between finetuning and gold answers, over (relation, answer).
entity_intervals: slope, spearman, total_variation and mismatch: the resamples are moved so that
  their mean is the measure, as resampled counts are noisier than the counts; the interval tells
  the spread only.
errors: of the wrong predictions, the share that are finetuning answers (finetuning_answer), and
  the share that are known answers rarer in pretraining than the gold answer (rarer_than_gold).
flips: shares of queries: gained = the reference arm is wrong and this arm right, lost = the other
  way round.
known_kept: of the queries that the known arm answers right, the share this arm answers right.
comparisons: difference of share right, arm - against, paired by query and seed; mcnemar_p: exact
  McNemar test on wins and losses summed over seeds (mcnemar_mid_p: its mid-p form), which knows
  nothing of differences between seeds; seeds_same_sign: in how many seeds the difference has the
  sign of its mean.
difference_known, difference_unknown: the same among the queries that the known arm answers right,
  and among the others.
ratio_difference: of an arm beside the reference, difference of its prediction ratios and the
  reference's, both with the arm's groups of answers, paired by query and seed.
verdict: whether finetuning shifted the answer prior (the corrected arm is clearly above the
  finetuned one), lost access (the corrected arm is clearly below the reference among the facts
  that a fourth arm, the known one, has right; without one among all facts) or both; clear is an
  interval without 0.
large_sets: where queries x resamples exceeds ten million, equal rows are resampled together as
  cells, and slope, spearman, total_variation and mismatch may use fewer resamples (100 at least).
"""

_CALIBRATION_TEXT = """
units: answers with a confidence, right or wrong. queries: questions asked, a subject and a
  relation; some may have no unit, some several.
intervals: low and high are the percentile interval of a bootstrap over clusters (a query, or a
  subject with all its queries; with all their units); for a relation over its own clusters. null
  is undefined, as AUROC is where all units are right or all wrong. Where all of few units are
  right an interval [1, 1] says little of the next unit.
share_right, mean_confidence, overconfidence: means over units, and mean confidence less share
  right, which is 0 for confidences that hold on average.
reliability: units in order of confidence cut into bins of equal mass; mean confidence and share
  right of each. Equal confidences stay in one bin, so that bins may be fewer and unequal. `bins`
  is the number asked for, less where a bin would have fewer than 10 units.
ece: expected calibration error: mean over units of |mean confidence - share right| of their bins
  of equal mass. Biased upwards: where the share right is p, even perfect confidences give about
  .8 sqrt(p (1 - p) / units a bin). Sets of different size or bins are not to be compared by it.
ece_debiased: ece less the bias that the bootstrap shows, 2 ece - mean of the resamples, at least
  0 (Efron and Tibshirani 1993, chapter 10); a part of the bias stays.
ece_intervals: for ece and ece_debiased the resamples are moved so that their mean is the measure,
  as resampling adds bias; the interval tells the spread only. In trials of 400 to 1600 units of
  ECE .1, 95% intervals of ece_debiased held it 86 to 89 times of 100.
brier: mean over units of (confidence - right)^2, right being 1 or 0; lower is better. Always
  saying the share right p gives p (1 - p).
auroc: chance that a right unit ranks above a wrong one, ties counted half; .5 is chance. Ranked
  by confidence, equal confidences by raw score.
risk_coverage: share wrong (risk) among the first units of the ranking that reach a share
  (coverage) of all units; ties are taken together.
aurc: area under that curve: mean over units of the risk where a unit stands (Geifman and El-Yaniv
  2018); lower is better.
yields: the ranking is followed down to the last place where the share right so far is at least
  `precision`: `share` of the queries that have an answer there, `right` answers among the
  `answers` given, and the lowest confidence given, `threshold`; 0 where no place has this
  precision. The cut is the best one for these very units and so promises nothing; a threshold
  fixed on other data does.
"""

_ATTENTION_TEXT = """
estimates: means over the test facts whose prompt holds their subject (`facts`; the others are
  `left_out`), then over seeds; low and high are the percentile interval of a bootstrap over facts
  and, with several seeds, over seeds as a second level. null is undefined.
sites: whose attention is measured. encoder: an encoder's blank that stands for the answer; cross:
  where a decoder predicts the answer's first token, over the encoder's output; self: the same in
  a decoder-only model, over the prompt.
mass: attention weight on the subject's tokens, mean over layers and heads.
share_of_uniform: mass divided by what it would be if all tokens got the same attention (subject
  tokens / tokens).
contribution, contribution_rest: what the attention-weighted value vectors of the subject's
  tokens, and of all other tokens, add directly to the logit of the gold answer's first token
  above the mean of the relation's candidates; logits, summed over layers and heads.
salience: the same of the subject's tokens at attention weight 1, mean over tokens (S(s, r, a) =
  phi(a)^T W_V phi(s) of Ghosal et al. 2024): mean over heads, summed over layers. It tells what
  is stored apart from how much is attended to.
by_head: means over facts and seeds, a list of layers from the first, each a list of heads;
  salience of each head by itself.
by_popularity: mass in quartiles of the popularity of the test facts' subjects, of each seed;
  facts without a popularity are left out.
right, wrong: mass on facts that the arm answers right, and wrong.
change: this arm less the reference arm, paired: means of differences on the same facts and seed.
comparisons: arm less against, paired in the same way; seeds_same_sign: in how many seeds the
  difference of mass has the sign of its mean.
lost, kept: change of mass on facts that the other arm answers right and this one wrong, and on
  those that both answer right; lost_minus_kept is their difference: below 0 where attention falls
  further where answers are lost.
"""


def _by_name(text: str) -> dict[str, str]:
  one_line_each = textwrap.dedent(text).strip().replace("\n  ", " ")
  pairs = (line.split(": ", 1) for line in one_line_each.splitlines())
  return {name.strip(): definition for name, definition in pairs}


NOTES = _by_name(_TEXT)
CALIBRATION = _by_name(_CALIBRATION_TEXT)
ATTENTION = _by_name(_ATTENTION_TEXT)
