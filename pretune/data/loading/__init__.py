"""Inputs of training: the corpus, packed and padded sequences, random numbers."""
