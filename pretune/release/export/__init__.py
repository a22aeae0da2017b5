"""Models for other runtimes, each loaded again and compared with the trained one before it is kept."""
