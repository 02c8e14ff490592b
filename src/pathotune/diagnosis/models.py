"""Whether models can be run: torch and the devices, the libraries models come from, weights at hand, the hub."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from pathotune.diagnosis import Finding
from pathotune.diagnosis.trying import not_loaded, tried_apart
from pathotune.settings import settings

OWN_CERTIFICATE = (
    "Your network signs connections with a certificate of its own: ask IT for that file, and set SSL_CERT_FILE and "
    "REQUESTS_CA_BUNDLE to it."
)
NO_WAY_OUT = (
    "Behind a proxy set HTTPS_PROXY. Without internet bring models by pathotune bundle, and set HF_HUB_OFFLINE=1."
)
HUB, HUB_S = "https://huggingface.co", 5.0
GET_TORCH = "Install the torch build for your card as its own site says (Get started ▸ CUDA), then run this again."


def check_torch() -> Iterator[Finding]:
    """Whether torch loads, and fits the card in the computer."""
    loaded, said = tried_apart("import torch; print(torch.__version__, torch.version.cuda or 'CPU only')")
    if not loaded:
        fix = "Install it again: pip install --force-reinstall torch"
        if sys.platform == "win32":
            fix = "Install Microsoft's Visual C++ Redistributable (x64). Where that does not help: " + fix
        yield not_loaded("torch", said, f"does not load ({said})", fix)
        return
    version, _, cuda = said.partition(" ")
    if cuda == "CPU only" and has_nvidia_card():
        text = f"torch {version} is built for the CPU only, and there is an NVIDIA card in this computer"
        yield Finding("torch", "trouble", text, GET_TORCH)
    else:
        yield Finding("torch", "ok", f"torch {version}, {cuda if cuda == 'CPU only' else f'CUDA {cuda}'}")


def has_nvidia_card() -> bool:
    """Whether an NVIDIA driver is there, whatever torch thinks of it."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def check_devices() -> Iterator[Finding]:
    """Each device with a real tiny forward pass."""
    from pathotune.device import DEVICES, why_not

    for device in DEVICES:
        reason = why_not(device)
        if reason is None:
            yield Finding(f"device {device}", "ok", "a tiny forward pass works")
        elif device == "cpu":
            yield Finding("device cpu", "trouble", reason, "Install torch again: pip install --force-reinstall torch")
        elif device == "cuda" and has_nvidia_card():
            fix = GET_TORCH if "CPU only" in reason else "Update the card's driver; nvidia-smi must name the card."
            yield Finding("device cuda", "trouble", reason, fix)
        else:
            yield Finding(f"device {device}", "note", f"not used: {reason}")


def check_libraries() -> Iterator[Finding]:
    """The libraries that models come from, loaded apart so that one that crashes is seen."""
    for name, needed in (("torchvision", True), ("timm", True), ("transformers", True), ("open_clip", False)):
        if importlib.util.find_spec(name) is None:
            if needed:
                yield Finding(name, "trouble", "is not installed", f"pip install {name}")
            else:
                fix = "pip install 'pathotune[openclip]'"
                yield Finding(name, "note", "is not installed: image–text models of this library cannot be used", fix)
            continue
        loaded, said = tried_apart(f"import {name}; print({name}.__version__)")
        if loaded:
            yield Finding(name, "ok", said)
        else:
            fix = "Install torch and torchvision together from one place: their builds must fit each other."
            yield not_loaded(name, said, f"does not load ({said})", fix)


def check_backbones() -> Iterator[Finding]:
    """Whose weights are here."""
    from pathotune.backbones import all_cards

    names = [card.name for card in all_cards() if card.facts()["available"]]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    if names:
        yield Finding("models here", "ok", shown)
    else:
        fix = "Install pathotune again, and see pathotune backbones for others."
        yield Finding("models here", "trouble", "not even the built-in one is found", fix)


def check_hub() -> Iterator[Finding]:
    """Token and offline switch; the token itself is never read here."""
    known = settings()
    text = "a token is there" if known.has_token else "no token"
    if known.offline:
        fix = "For models not here: unset PATHOTUNE_OFFLINE and HF_HUB_OFFLINE, or bring them by pathotune bundle."
        yield Finding("model hub", "note", f"{text}; switched off (offline)", fix)
        return
    reason = why_no_hub()
    if "certificate" in reason.lower():
        fix = OWN_CERTIFICATE
        yield Finding("model hub", "note", f"{text}; its certificate is not trusted here ({reason})", fix)
    elif reason:
        fix = NO_WAY_OUT
        yield Finding("model hub", "note", f"{text}; it is not reached ({reason})", fix)
    elif not known.has_token:
        fix = "Only gated models (UNI, Virchow, GigaPath …) need one: accept their terms, then run: hf auth login"
        yield Finding("model hub", "note", text, fix)
    else:
        yield Finding("model hub", "ok", text)


def why_no_hub() -> str:
    """Why the model hub does not answer; "" where it does. Nothing is sent but the request for its front page."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(os.environ.get("HF_ENDPOINT") or HUB, timeout=HUB_S):
            return ""
    except urllib.error.HTTPError:  # it answered
        return ""
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return " ".join(str(getattr(reason, "strerror", None) or reason).split())[:120] or type(error).__name__
