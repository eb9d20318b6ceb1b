"""Tracks any video: makes a model from the video itself (``fit.py``), tracks with it (``track.py``), writes files."""
