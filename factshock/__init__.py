"""factshock: finetune language models on facts, measure the frequency shock, and repair it."""

__version__ = "0.1.0"
