"""What of a model is trained, and what is added to it for that."""
