"""Decoders phi_d, one file each; ``decoded.py`` says what they all answer."""
