"""Visual prompt tuning: learned tokens in a frozen vision transformer, and a linear head."""
