"""Objectives for unlabelled rows."""
