"""Builds and loads models of transformers, and runs them on packed sequences."""
