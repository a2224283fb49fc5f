"""Experiments that come along: a config file each, named by `--config=NAME`."""
