"""How a stage runs: its contract, its processes, its progress and what is measured meanwhile."""
