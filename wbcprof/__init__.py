"""Unsupervised visual signatures and profiles of white blood cells."""
