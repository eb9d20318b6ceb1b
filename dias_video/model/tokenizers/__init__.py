"""Tokenizers: frames, or frozen features, as one of a few hundred or thousand codes a cell."""
