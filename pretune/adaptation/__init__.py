"""Which weights of a pretrained model are trained, and the adapters that are added to it."""
