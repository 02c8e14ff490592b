"""CITE: learned tokens and a projection that bring image features into the space of a frozen language model."""
