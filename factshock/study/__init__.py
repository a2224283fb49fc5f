"""A study: the arms of a config, trained, asked and reported, seed by seed."""
