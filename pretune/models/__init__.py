"""Building models, loading them, and serving what they predict."""
