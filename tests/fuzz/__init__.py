"""Fuzzers: valid small files, changed by a seed, are read with right values or refused clearly.

`python tests/fuzz/run.py --help` says how to run them; `frame.py` how to write one.
"""
