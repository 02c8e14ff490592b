"""The main job from nothing: tuned on the drawn regions of one generated slide, judged on another of another stain."""

from __future__ import annotations

from pathotune.demo.run import DemoConfig, run_demo

__all__ = ["DemoConfig", "run_demo"]
