"""Cache and results folders, hub token, offline switch: the one place that reads the environment."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs


@dataclass(frozen=True)
class Settings:
    """What the environment says; every field has a default that works.

    cache_dir : remembered pixel sizes, cached text embeddings and tiles (PATHOTUNE_CACHE).
    results_dir : where the viewer writes when nothing else is said (PATHOTUNE_RESULTS).
    models_dir : a folder with weights for places without internet (PATHOTUNE_MODELS).
    offline : no attempt to reach a hub (PATHOTUNE_OFFLINE or HF_HUB_OFFLINE).
    has_token : a hub token is present; the token itself is never kept here.
    """

    cache_dir: Path
    results_dir: Path
    models_dir: Path
    offline: bool
    has_token: bool


def settings() -> Settings:
    """Read the environment now (cheap; not cached, so that tests can change it)."""
    cache = Path(os.environ.get("PATHOTUNE_CACHE") or platformdirs.user_cache_dir("pathotune", appauthor=False))
    results = Path(os.environ.get("PATHOTUNE_RESULTS") or Path(platformdirs.user_documents_dir()) / "pathotune")
    models = Path(os.environ.get("PATHOTUNE_MODELS") or cache / "models")
    flags = ("PATHOTUNE_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    offline = any(os.environ.get(flag, "").lower() in {"1", "true", "yes", "on"} for flag in flags)
    token_file = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface") / "token"
    has_token = bool(os.environ.get("HF_TOKEN")) or token_file.is_file()
    return Settings(cache, results, models, offline, has_token)


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON object, or {} where the file is absent or damaged (it can be made again)."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that a reader never sees half a file: temporary name in the same folder, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(data, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(temporary, path)
