"""Checkpoints of other programs in our modules, one file for each origin."""
