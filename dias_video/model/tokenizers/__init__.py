"""Tokenizers: each cell of a frame, or of frozen features, becomes one of a few hundred or thousand codes."""
