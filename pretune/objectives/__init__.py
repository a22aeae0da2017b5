"""Training objectives: one file each, with batches, loss and predictions."""
