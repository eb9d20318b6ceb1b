"""Converts checkpoints of other programs to this project's modules, one file for each origin."""
