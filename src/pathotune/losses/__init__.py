"""Heads and objectives that more than one method uses."""
