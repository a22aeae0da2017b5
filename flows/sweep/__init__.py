"""Sweeps: trials that run side by side, each in a copy of the workspace."""
