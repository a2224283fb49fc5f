"""What a model is: Flax modules over plain nested-dict parameters."""
