"""Training and its checkpoints. Knows no concrete model or data set; takes objects as arguments."""
