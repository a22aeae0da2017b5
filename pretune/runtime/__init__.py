"""How a stage runs: its contract, its processes, its progress and its system metrics."""
