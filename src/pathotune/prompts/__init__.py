"""Extra tokens that steer a frozen vision transformer: learned, made from sentences, or made from the tile itself."""
