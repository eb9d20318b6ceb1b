"""Scores label maps under named protocols: measures, methods that make maps, baselines, and result files."""
