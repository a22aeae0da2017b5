"""Which rows are kept, and in which form; each decision with its reason."""
