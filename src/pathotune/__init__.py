"""The core of pathotune: from whole-slide images to tuned predictions, without a viewer."""
