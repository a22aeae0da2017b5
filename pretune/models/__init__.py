"""Models of transformers: built, loaded, saved, and run on packed sequences."""
