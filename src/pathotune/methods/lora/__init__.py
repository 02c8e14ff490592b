"""Low-rank adaptation (LoRA) of the backbone's linear layers, and a linear head."""
