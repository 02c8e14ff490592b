"""The napari plugin of pathotune: it shows what the core does."""
