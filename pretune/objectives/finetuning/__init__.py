"""Objectives for labelled rows."""
