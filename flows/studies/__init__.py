"""Ready experiments on top of sweeps, each of which ends in a plain sentence."""
