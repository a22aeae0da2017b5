"""Looks at data before the first run: encodings, delimiters, columns, and the parameters that follow from them."""
