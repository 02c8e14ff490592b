"""BitFit: the backbone's biases are trained, and a linear head."""
