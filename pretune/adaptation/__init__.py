"""Which weights of a model are trained, and adapters that are added to it."""
