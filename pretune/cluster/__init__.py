"""The Ray cluster that PRETUNE_CLUSTER names: joining it, and what its nodes have."""
