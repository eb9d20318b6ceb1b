"""Training and its checkpoints, for any model and data set; both are passed as arguments."""
