"""Training from scratch: the same network from random weights, and a linear head."""
