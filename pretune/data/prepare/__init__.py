"""Splits, leak checks, token shards and the data card."""
