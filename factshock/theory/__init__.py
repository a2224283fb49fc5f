"""Theory of the second paper (arXiv 2406.14785) in a one-layer transformer.

It says why finetuning on lesser-known facts makes a model forget to look at the subject.
"""
