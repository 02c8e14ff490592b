"""Gene encoders: expression in pathways to tokens."""
