"""The ten most common troubles of docs/doctor.md, each caused on purpose: found, and with what to do."""

from __future__ import annotations

import ssl
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pathotune.diagnosis import Finding, machine, models, reading, viewing

Patch = pytest.MonkeyPatch
PAGE = Path(__file__).resolve().parents[3] / "docs" / "doctor.md"


def card_without_torch(patch: Patch) -> None:
    patch.setattr(models, "tried_apart", lambda code: (True, "2.9.0+cpu CPU only"))
    patch.setattr(models, "has_nvidia_card", lambda: True)


def torch_does_not_load(patch: Patch) -> None:
    patch.setattr(models, "tried_apart", lambda code: (False, "OSError: [WinError 126] error loading c10.dll"))
    patch.setattr(models.sys, "platform", "win32")


def other_versions(patch: Patch) -> None:
    patch.setattr("importlib.metadata.requires", lambda name: ["numpy>=99", "not-there>=1", "never; extra == 'x'"])


def no_qt(patch: Patch) -> None:
    patch.setattr(viewing.importlib.util, "find_spec", lambda name: object() if name == "napari" else None)


def no_screen(patch: Patch) -> None:
    patch.setattr(viewing.sys, "platform", "linux")
    patch.setattr(viewing.importlib.util, "find_spec", lambda name: object())
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        patch.delenv(name, raising=False)


def no_reader(patch: Patch) -> None:
    def broken(*_: Any) -> str:
        raise OSError("libopenslide.so.1: cannot open shared object file")

    patch.setattr(reading, "_openslide", broken)


def full_folder(patch: Patch) -> None:
    patch.setattr(machine, "_why_not_writable", lambda folder: "No space left on device")


def online(patch: Patch, token: str = "") -> None:
    for name in ("PATHOTUNE_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        patch.delenv(name, raising=False)
    patch.setenv("HF_HOME", "/nowhere")
    if token:
        patch.setenv("HF_TOKEN", token)


def own_certificate(patch: Patch) -> None:
    online(patch)

    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError(ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed"))

    patch.setattr("urllib.request.urlopen", refuse)


def no_route(patch: Patch) -> None:
    online(patch)

    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError(OSError(101, "Network is unreachable"))

    patch.setattr("urllib.request.urlopen", refuse)


def no_token(patch: Patch) -> None:
    online(patch)
    patch.setattr(models, "why_no_hub", lambda: "")


def other_plugin(patch: Patch) -> None:
    patch.setattr(viewing, "distributions", lambda: [SimpleNamespace(metadata={"Name": "napari-wsi"})])
    patch.setattr(viewing, "tried_apart", lambda code: (True, "pathotune"))


CASES: list[tuple[str, Callable[[Patch], None], Callable[[], Iterator[Finding]], str, str]] = [
    ("a graphics card, and a torch without it", card_without_torch, models.check_torch, "NVIDIA card", "CUDA"),
    ("torch or torchvision does not load", torch_does_not_load, models.check_torch, "c10.dll", "Visual C++"),
    ("torch or torchvision does not load", torch_does_not_load, models.check_libraries, "c10.dll", "together"),
    ("packages that do not go together", other_versions, machine.check_packages, "not-there is missing", "of its own"),
    ("no Qt, or the wrong one", no_qt, viewing.check_viewer, "there is no Qt", "pip install"),
    ("no screen, no OpenGL", no_screen, viewing.check_screen, "DISPLAY", "ssh -X"),
    ("slides that no reader opens", no_reader, reading.check_readers, "libopenslide", "openslide-bin"),
    ("a folder that cannot be written, or is full", full_folder, machine.check_folders, "No space", "PATHOTUNE_CACHE"),
    ("no way to the model hub", own_certificate, models.check_hub, "certificate is not trusted", "SSL_CERT_FILE"),
    ("no way to the model hub", no_route, models.check_hub, "not reached", "HTTPS_PROXY"),
    ("a gated model without a token", no_token, models.check_hub, "no token", "login"),
    ("another plugin takes the slide", other_plugin, viewing.check_other_readers, "napari-wsi", "--plugin pathotune"),
]


@pytest.mark.parametrize(
    ("trouble", "cause", "check", "found", "fix"), CASES, ids=[f"{one[0]}-{one[3]}" for one in CASES]
)
def test_it_is_found_and_mended(
    trouble: str, cause: Callable[[Patch], None], check: Any, found: str, fix: str, monkeypatch: Patch
) -> None:
    cause(monkeypatch)
    told = [one for one in check() if one.state in ("note", "trouble")]
    assert any(found in one.text and fix in one.fix for one in told), told


def test_none_of_them_is_found_where_there_is_none(monkeypatch: Patch) -> None:
    """The finding comes from the fault, not from the check: here nothing is broken."""
    online(monkeypatch, "hf_secret")
    monkeypatch.setattr(models, "why_no_hub", lambda: "")
    monkeypatch.setattr(models, "has_nvidia_card", lambda: False)
    monkeypatch.setattr(models, "tried_apart", lambda code: (True, "2.9.0 CPU only"))
    checks = (
        models.check_torch,
        models.check_hub,
        machine.check_packages,
        machine.check_folders,
        reading.check_readers,
    )
    assert not [one for check in checks for one in check() if one.state == "trouble" or "hf_secret" in one.text]


def test_the_page_names_the_same_ten() -> None:
    if not PAGE.exists():
        pytest.skip("the pages are not beside the tests here")
    rows = [
        line.split("|")[1].strip() for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")
    ]
    assert rows[2:] == list(dict.fromkeys(one[0] for one in CASES)) and len(rows[2:]) == 10


def test_a_hub_that_answers_with_a_refusal_is_reached(monkeypatch: Patch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.HTTPError("x", 403, "Forbidden", {}, None)  # type: ignore[arg-type]

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    assert models.why_no_hub() == ""
