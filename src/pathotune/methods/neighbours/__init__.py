"""Nearest neighbours: a tile is what the most similar training tiles are."""
