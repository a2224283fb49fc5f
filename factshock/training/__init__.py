"""Training: the train step, its optimizers, drivers and loop, settings, metrics and FLOPs."""
