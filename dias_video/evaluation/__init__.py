"""Scores of label maps under named protocols: measures, what is scored, baselines beside it, the result files."""
