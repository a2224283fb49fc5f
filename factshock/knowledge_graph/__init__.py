"""From answers to triples: calibrated confidence, thresholds, shock guard, consistency, and the formats of a graph. No JAX."""
