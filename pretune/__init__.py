"""The library that the stages in `tasks/` call."""
