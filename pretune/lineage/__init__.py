"""The graph, hashes and stage keys, as DVC knows them; the only package that imports dvc."""
