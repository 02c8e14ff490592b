"""Linear probe: one linear layer on the frozen backbone's features."""
