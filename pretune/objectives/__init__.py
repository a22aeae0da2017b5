"""What is learnt: one file per objective, each with its batches and its loss."""
