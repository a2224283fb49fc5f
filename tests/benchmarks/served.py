"""Asking a served model that fails at times: the stand-in server, in a process of its own.

  PYTHONPATH=. python tests/benchmarks/served.py [--queries=100000] [--concurrency=8]

Two of a hundred requests fail (429, 500, a dropped connection, half an answer), one is slow, and in
the middle the server goes down, with all connections, for two seconds. Every answer is compared
with what the stand-in's model says of the query. Printed are queries a second, retries, and the
peak of resident memory of the process that asks, of which the queries and answers are part. The
server is Python on the same machine: it sets the pace. Time: 2 to 5 minutes.
"""

import json
import pathlib
import subprocess
import sys
import time

from absl import flags

from factshock.runtime import console
from factshock.served import asking, models

QUERIES = flags.DEFINE_integer("queries", 100_000, "queries to ask")
CONCURRENCY = flags.DEFINE_integer("concurrency", 8, "requests at a time")

HELPERS = pathlib.Path(__file__).parents[1] / "helpers"
MAX_TOKENS = 16
STOPS = ("\n",)


def main(_):
  count = QUERIES.value
  settings = {"failing": 0.02, "slow": 0.01, "down_after": count // 2, "down_for": 2.0}
  server = subprocess.Popen(
    [sys.executable, str(HELPERS / "stand_in_server.py"), json.dumps(settings)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  try:
    url = server.stdout.readline().strip()
    model = models.open_endpoint(f"endpoint:{url}?model=stand-in&concurrency={CONCURRENCY.value}")
    prompts = [f"Country {index} has the capital" for index in range(count)]
    print(f"{peak():.0f} MB before the first query")
    began = time.monotonic()
    texts, scores = asking.generate(model, prompts, max_tokens=MAX_TOKENS, stops=STOPS)
    seconds = time.monotonic() - began
    memory = peak()
  finally:
    server.stdin.close()
    server.wait()
  wrong = count_wrong(prompts, texts, scores)
  print(f"{count:,} queries in {seconds:.0f} s, {count / seconds:.0f} a second")
  print(model.client.usage.describe(seconds))
  print(f"{wrong:,} answers missing, out of order or other than the model's")
  print(f"{memory:.0f} MB at most in the process that asks (VmHWM)")
  return int(wrong > 0)


def count_wrong(prompts, texts, scores):
  """Returns how many answers are not those of the stand-in's model."""
  sys.path.insert(0, str(HELPERS))
  import stand_in_server

  wrong = 0
  for prompt, text, score in zip(prompts, texts, scores, strict=True):
    made = stand_in_server.generate(prompt, MAX_TOKENS, STOPS, stand_in_server.greedy)
    expected = bytes(byte for byte, _ in made).decode().split("\n")[0].strip()
    total = sum(log_p for _, log_p in made)
    wrong += text != expected or abs(score - total) > 1e-4
  return wrong


def peak():
  """Returns the peak of this process's resident memory in MB."""
  lines = pathlib.Path("/proc/self/status").read_text().splitlines()
  return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
  console.run(main)
