"""Sweeps and studies: which values are tried, how trials are judged, what follows from them."""
