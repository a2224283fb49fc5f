"""Checkpoints of models: storing, opening, mixing and converting them."""
