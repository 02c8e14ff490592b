"""From tiles to predictions: the plan of the work, the model over it, and the store the values are streamed into."""
