"""The library that the stages in `tasks/` are made of."""
