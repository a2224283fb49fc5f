"""Models: Flax modules over plain nested-dict parameters, and their families."""
