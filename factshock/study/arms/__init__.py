"""Kinds of arms, a file a group of kinds; every module here with a list KINDS is found by itself.

An arm is a section of the config, say `dict(kind="finetune", facts="balanced", ratio=4.0)`. To add
a kind write one file that defines its Kind (arms/kind.py) and lists it in KINDS, and name the kind
in a config.
"""
