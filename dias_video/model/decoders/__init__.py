"""Decoders phi_d, one file each; ``decoded.py`` has their common interface."""
