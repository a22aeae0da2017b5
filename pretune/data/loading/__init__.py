"""What training reads: the corpus, packed and padded sequences, random numbers."""
