"""Answers of models: ranking, decoding, what is known, and the predictions file."""
