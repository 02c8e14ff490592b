"""SSF: the outputs of the backbone's layers are scaled and shifted, and a linear head."""
