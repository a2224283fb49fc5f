"""What a model reads: tokenizers, prompts, span corruption, corpora and mixtures. Numpy on the host."""
