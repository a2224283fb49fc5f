"""How a model learns: the train step, optimizers, checkpoints, interpolation and the loop."""
