"""Estimates of training: cost, memory and duration."""
