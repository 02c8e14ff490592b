"""Full fine-tuning: the whole backbone is trained, and a linear head."""
