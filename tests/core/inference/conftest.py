"""The slide and the model of `tests/support/brightness.py`, for every test of a prediction."""

from __future__ import annotations

from brightness import make_slide, model, run, slide_path, tuning

__all__ = ["make_slide", "model", "run", "slide_path", "tuning"]
