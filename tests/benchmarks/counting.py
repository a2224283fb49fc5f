"""Counting 300,000 names in real sentences against FlashText; ranks against Wikipedia's.

  PYTHONPATH=. python tests/benchmarks/counting.py [--data=../shared/data] [--names=300000]
  [--text='docs/**/*.md']

Names are the subjects, objects and aliases of EntityQuestions, PopQA and T-REx. FlashText (pip
install flashtext) finds the longest names at word boundaries and no others; factshock finds all,
counts documents and facts as well. Building either search is stated apart. Peak memory is of a
process that does nothing else. The Spearman correlation is that of each T-REx subject's and
object's mentions here with the passages of English Wikipedia that name it, from
trex_wikipedia/fact_frequencies.tsv.gz.
"""

import gc
import gzip
import os
import resource
import subprocess
import sys
import time

from absl import app, flags

from factshock.devices import host
from factshock.facts import corpus_counts, documents, entities, sources

DATA = flags.DEFINE_string(
  "data", os.environ.get("FACTSHOCK_DATA", "../shared/data"), "folder of the real data"
)
NAMES = flags.DEFINE_integer("names", 300_000, "names at most")
REPEATS = flags.DEFINE_integer("repeats", 3, "runs of each side, in turn; the fastest counts")
TEXT = flags.DEFINE_string(
  "text",
  None,
  (
    "other text, as `count` takes it; default: the sentences that state T-REx facts, dense "
    "with names"
  ),
)
_ONLY = flags.DEFINE_bool("only_ours", False, "count once and print this process's peak memory")


def facts_of(data, most):
  """Facts whose entities have about `most` names."""
  found, names = [], set()
  for spec in (
    f"trex:{data}/trex",
    f"trex:{data}/trex?split=train",
    f"popqa:{data}/popqa/popqa_full_no_popularity.csv.gz",
    *(
      f"entityquestions:{data}/entityquestions/{split}.jsonl.gz"
      for split in ("test", "dev", "train")
    ),
  ):
    for fact in sources.read(spec).facts:
      names.update((fact["subject"], fact["object"], *fact.get("aliases", ())))
      if len(names) > most:
        return found
      found.append(fact)
  return found


def spearman(data):
  """(names, correlation) for subjects and for objects of T-REx."""
  from scipy import stats

  facts = sources.read(f"trex:{data}/trex").facts
  found = entities.entities_of(facts)
  counts = entities.count_documents(
    documents.read(f"{data}/trex_wikipedia/trex_evidence_sentences.tsv.gz"),
    entities.search_of(found),
  )
  ours = dict(zip(found.labels, counts["documents"].tolist()))
  theirs = {"subject": {}, "object": {}}
  with gzip.open(f"{data}/trex_wikipedia/fact_frequencies.tsv.gz", "rt", encoding="utf-8") as file:
    header = next(file).rstrip("\n").split("\t")
    for line in file:
      row = dict(zip(header, line.rstrip("\n").split("\t")))
      for role in theirs:
        theirs[role][row[role]] = int(row[f"{role}_freq"])
  for role, counts_of in theirs.items():
    names = sorted({fact[role] for fact in facts} & counts_of.keys())
    yield (
      role,
      len(names),
      stats.spearmanr(
        [ours[name] for name in names], [counts_of[name] for name in names]
      ).statistic,
    )


def main(_):
  host.keep_freed_memory()  # as the verb does
  gc.disable()
  facts = facts_of(DATA.value, NAMES.value)
  texts = list(
    documents.read(TEXT.value or f"{DATA.value}/trex_wikipedia/trex_evidence_sentences.tsv.gz")
  )
  size = sum(len(text.encode()) for text in texts) / 1e6
  began = time.perf_counter()
  found = entities.entities_of(facts)
  search = entities.search_of(found)
  entities.count_documents(["warm"], search)
  built = time.perf_counter() - began
  if _ONLY.value:
    corpus_counts.count_part(texts, search)
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f}")
    return
  sides, said = {"factshock": lambda: corpus_counts.count_part(texts, search)}, {"factshock": built}
  try:
    import flashtext

    began = time.perf_counter()
    peer = flashtext.KeywordProcessor(case_sensitive=True)
    for name in found.names:
      peer.add_keyword(name)
    said["flashtext"] = time.perf_counter() - began
    sides["flashtext"] = lambda: [peer.extract_keywords(text) for text in texts]
  except ImportError:
    print("flashtext is not installed: no peer")
  times = {side: [] for side in sides}
  for _ in range(REPEATS.value):
    for side, run in sides.items():
      began = time.perf_counter()
      run()
      times[side].append(time.perf_counter() - began)
  print(
    f"{len(found.names):,} names of {len(found.labels):,} entities, {len(texts):,} "
    f"documents, {size:.1f} MB, one process; "
    f"{corpus_counts.count_part(texts, search)['mentions'].sum() / size:,.0f} mentions of "
    f"entities a MB"
  )
  for side, taken in times.items():
    print(
      f"  {side}: {size / min(taken):.1f} MB/s, {min(taken):.2f} s (all "
      f"{', '.join(f'{one:.2f}' for one in taken)}); search built in {said[side]:.1f} s"
    )
  if "flashtext" in times:
    print(f"  ratio {min(times['flashtext']) / min(times['factshock']):.1f}")
  peak = subprocess.run(
    [
      sys.executable,
      __file__,
      "--only_ours",
      f"--data={DATA.value}",
      f"--names={NAMES.value}",
      *([f"--text={TEXT.value}"] if TEXT.value else []),
    ],
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  print(f"  peak resident, facts and text included: {peak.strip()} GB")
  for role, names, correlation in spearman(DATA.value):
    print(
      f"  Spearman of documents here with Wikipedia passages, {names:,} {role}s: {correlation:.3f}"
    )


if __name__ == "__main__":
  app.run(main)
