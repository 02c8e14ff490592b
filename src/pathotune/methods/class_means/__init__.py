"""Nearest class mean: a tile is what the mean of a class is nearest to."""
