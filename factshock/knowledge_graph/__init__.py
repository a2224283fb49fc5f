"""From answers to triples: calibration, thresholds, consistency and graph formats. No JAX."""
