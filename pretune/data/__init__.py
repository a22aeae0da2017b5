"""Documents: where they come from, how they are split, tokenized and packed."""
