"""Multiple-instance learning: the class of a whole slide from the features of its tiles."""
