"""Tuning on regions and tiles: the loop, its schedule and the scores."""
