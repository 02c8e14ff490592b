"""Where the weights of a backbone are: beside its card, in the models folder, in the hub's cache, or on the hub."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

from pathotune.backbones.card import BackboneCard
from pathotune.errors import BackboneUnavailable, FileMissing, WeightsRefused
from pathotune.settings import settings

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
# What publishers call their file; an index stands for a file in several parts.
USUAL_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
# Cards that come with all they need.
BUILT_IN = ("pathotune-tiny", "small-slide")
# What has to lie beside the weights so that the architecture is known for sure.
COMPANIONS = {"transformers": ("config.json",), "open_clip": ("open_clip_config.json",)}


def local_weights(card: BackboneCard) -> Path | None:
    """The weights on this machine, or None; looks in the card's folder, the models folder and the hub's cache."""
    if card.weights:
        beside = weights_beside(card)
        return beside if beside.is_file() else None
    folder = settings().models_dir / card.name
    if folder.is_dir():
        found = weights_in(folder, card)
        if found is not None:
            return found
    return _in_hub_cache(card)


def weights_beside(card: BackboneCard) -> Path:
    """The file a card names, which has to lie in the card's own folder (links are followed and then judged)."""
    if card.folder is None:
        raise WeightsRefused(f"The card of {card.name} names the file {card.weights!r} but lies in no folder.")
    folder = card.folder.resolve()
    path = (folder / card.weights).resolve()
    if not path.is_relative_to(folder):
        raise WeightsRefused(
            f"The card of {card.name} names weights outside its own folder ({card.weights!r}); "
            "put the file beside the card, or name it with the option for weights."
        )
    return path


def weights_in(folder: Path, card: BackboneCard) -> Path | None:
    """The weights file in a folder: by the card's names, by the usual names, or the only one there is."""
    for name in (*card.files, *USUAL_FILES):
        if (folder / name).is_file():
            return folder / name
    others = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    if len(others) > 1:
        raise WeightsRefused(
            f"{folder} holds several files that could be the weights of {card.title} "
            f"({', '.join(path.name for path in others[:5])}); name one of them."
        )
    return others[0] if others else None


def is_available(card: BackboneCard) -> bool:
    """Whether the backbone can be used here and now without a download."""
    if not card.loadable or any(importlib.util.find_spec(package) is None for package in card.needs):
        return False
    if is_built_in(card):
        return True
    try:
        return local_weights(card) is not None
    except WeightsRefused:
        return False


def is_built_in(card: BackboneCard) -> bool:
    """Whether the card needs no weights from elsewhere."""
    return card.name in BUILT_IN and card.hub_id == ""


def find_weights(card: BackboneCard, given: Path | None) -> tuple[Path, str]:
    """The weights file and where it is from ("file" or "hub"); downloads where that is allowed.

    Raises FileMissing for a given path that is not there, BackboneUnavailable where there is nothing to load.
    """
    if given is not None:
        if not given.exists():
            raise FileMissing(given, "weights file")
        found = weights_in(given, card) if given.is_dir() else given
        if found is None:
            raise BackboneUnavailable(f"The folder {given} holds no weights of {card.title} ({', '.join(SUFFIXES)}).")
        return found, "file"
    local = local_weights(card)
    if local is not None:
        return local, "file"
    if card.weights:
        raise BackboneUnavailable(f"The card of {card.name} names {card.weights!r}, which does not lie beside it.")
    return _download(card), "hub"


def advice(card: BackboneCard, why: str) -> BackboneUnavailable:
    """The error that tells what the backbone is, its licence, and the three ways to get it."""
    size = f", {card.params_m:g} million parameters" if card.params_m else ""
    licence = card.licence or "licence not stated"
    gate = ", its authors ask for an agreement first" if card.gated else ""
    where = ""
    if card.hub_id and card.gated is False:
        where = f" It can be had at {card.where_to_ask} without a token."
    elif card.hub_id:
        where = f" Ask for it at {card.where_to_ask}, then set HF_TOKEN or run `hf auth login`."
    folder = settings().models_dir / card.name
    return BackboneUnavailable(
        f"The weights of {card.title} ({licence}{size}{gate}) are not on this machine: {why}.{where} "
        f"Or put the file into {folder}, or name it with --weights. "
        "The built-in backbone pathotune-tiny needs no download."
    )


def _hub_names(card: BackboneCard, place: str) -> tuple[str, tuple[str, ...]]:
    """Repository and candidate files; a hub id of the form "owner/name:path/file" names its one file itself."""
    repository, _, file = place.partition(":")
    return repository, (file,) if file else card.files or USUAL_FILES


def _in_hub_cache(card: BackboneCard) -> Path | None:
    if not card.hub_id or importlib.util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    for place in (card.hub_id, *card.also_at):
        repository, names = _hub_names(card, place)
        for name in names:
            found = try_to_load_from_cache(repository, name)
            if isinstance(found, str):
                return Path(found)
    return None


def _download(card: BackboneCard) -> Path:
    """Fetch from the hub; the token is huggingface_hub's own business and is never read here."""
    if not card.hub_id:
        place = f"its authors offer it at {card.where}" if card.where else "no public place is known"
        raise advice(card, place)
    if settings().offline:
        raise advice(card, "downloads are switched off here")
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    if not _hub_answers():
        raise advice(card, "the hub cannot be reached from here")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        for place in (card.hub_id, *card.also_at):
            found = _first_of(card, place)
            if found is not None:
                return found
    except GatedRepoError:
        token = "your token has no access yet" if settings().has_token else "no token is set"
        raise advice(card, f"the hub asks for an agreement and {token}") from None
    except RepositoryNotFoundError:
        raise advice(card, "the hub does not show it, which may also mean that a token is missing") from None
    except (HfHubHTTPError, OSError) as error:
        raise advice(card, f"the hub cannot be reached ({type(error).__name__})") from None
    raise advice(card, f"the hub has none of {', '.join(_hub_names(card, card.hub_id)[1])}")


def _hub_answers() -> bool:
    """Whether the hub's name is known here, so that nobody waits half a minute for five attempts in vain."""
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    from huggingface_hub.constants import ENDPOINT

    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


def _first_of(card: BackboneCard, place: str) -> Path | None:
    """The first of the card's files that the repository has, with the configuration that belongs to it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    repository, names = _hub_names(card, place)
    for name in names:
        try:
            path = Path(hf_hub_download(repository, name))
            for companion in COMPANIONS.get(card.loader, ()):
                hf_hub_download(repository, companion)
            return path if not name.endswith(".index.json") else _download_parts(repository, path)
        except LocalEntryNotFoundError as error:
            raise ConnectionError("no answer") from error
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            if place == (card.hub_id, *card.also_at)[-1]:
                raise
            return None
        except EntryNotFoundError:
            continue
    return None


def _download_parts(repository: str, index: Path) -> Path:
    from huggingface_hub import hf_hub_download

    from pathotune.backbones.weights import part_names

    for part in part_names(index):
        hf_hub_download(repository, part)
    return index
