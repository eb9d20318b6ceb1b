"""Any video: a model begun from what the video itself shows (``fit.py``), its tracks (``track.py``) and their files."""
