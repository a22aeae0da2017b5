"""Splits, leak checks, tokenized shards and the data card."""
