"""Bottleneck adapters after the backbone's attention and MLP, and a linear head."""
