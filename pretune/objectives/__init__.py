"""What a model learns: one file per objective, with its batches, loss and predictions."""
