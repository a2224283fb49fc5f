"""Models that a server answers for, by the protocol of OpenAI's completions.

No JAX: whoever asks a server needs none.
"""
