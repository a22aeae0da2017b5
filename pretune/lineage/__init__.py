"""The graph, hashes and stage keys as DVC sees them. The only package that imports dvc."""
