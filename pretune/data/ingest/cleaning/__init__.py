"""Cleaning of rows: form, quality rules, personal data; each rejection has a reason."""
