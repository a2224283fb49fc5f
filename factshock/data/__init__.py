"""Text as a model reads it: tokenizers, prompts, span corruption, corpora and mixtures.

Numpy on the host.
"""
