"""Renders HTML pages: one layout and one stylesheet for all."""
