"""Fixtures that every stage's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def own_settings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has its own cache and results folder and never reaches a hub."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("PATHOTUNE_CACHE", str(home / "cache"))
    monkeypatch.setenv("PATHOTUNE_RESULTS", str(home / "results"))
    monkeypatch.setenv("PATHOTUNE_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real slides (PATHOTUNE_DATA, or ../shared/data beside the checkout); skips where it is absent."""
    folder = Path(os.environ.get("PATHOTUNE_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "wsi").is_dir():
        pytest.skip("the real slides are not on this machine (set PATHOTUNE_DATA to their folder)")
    return folder


@pytest.fixture(scope="session")
def swapped_profile() -> bytes:
    """sRGB with its red and blue primaries exchanged: a conversion that cannot be overlooked."""
    from PIL import ImageCms

    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    tags = {bytes(data[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, blue = (data[tags[name] + 4 : tags[name] + 12] for name in (b"rXYZ", b"bXYZ"))
    data[tags[b"rXYZ"] + 4 : tags[b"rXYZ"] + 12] = blue
    data[tags[b"bXYZ"] + 4 : tags[b"bXYZ"] + 12] = red
    return bytes(data)
