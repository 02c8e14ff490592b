"""A backbone as one file for a place without internet: weights, card and licence, each with its checksum."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from pathotune.backbones.card import BackboneCard, backbone_card, backbone_names, card_folder, read_card
from pathotune.backbones.licences import limits, of_card
from pathotune.backbones.locate import COMPANIONS, find_weights, is_built_in
from pathotune.backbones.weights import part_names
from pathotune.errors import FileMissing, OutputRefused, PathotuneError, TableUnreadable, UsageError, WeightsRefused
from pathotune.settings import settings

SUFFIX = ".pathotune-backbone.zip"
FORMAT = 1
MANIFEST, CARD, LICENCE = "manifest.json", "card.yaml", "LICENCE.txt"
_BLOCK = 2**20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


def create_bundle(name: str | Path, out: Path, weights: Path | None = None) -> dict[str, Any]:
    """Write a backbone as one file.

    Parameters
    ----------
    name : a name of the catalogue, or a person's own card (YAML).
    out : the file, or a folder for `NAME.pathotune-backbone.zip`; it appears whole.
    weights : the weights, where they are not found by themselves; downloaded where that is allowed.

    Returns
    -------
    {"out", "name", "licence", "warning", "files": {name: {"bytes", "sha256"}}}

    Raises
    ------
    UsageError : a backbone that comes with every installation.
    BackboneUnavailable : its weights are not here and cannot be fetched.
    OutputRefused : the place cannot be written.
    """
    card = backbone_card(name)
    if is_built_in(card):
        raise UsageError(f"{card.title} comes with pathotune itself and needs no bundle.")
    path, _ = find_weights(card, weights)
    files = {file.name: file for file in _files(card, path)}
    card_file = Path(name) if Path(name).suffix in (".yaml", ".yml") else card_folder() / f"{card.name}.yaml"
    target = out / f"{card.name}{SUFFIX}" if out.is_dir() else out
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    listed: dict[str, dict[str, Any]] = {}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for file_name, file in files.items():
                listed[file_name] = {"bytes": file.stat().st_size, "sha256": _copied(file, archive, file_name)}
            archive.writestr(CARD, card_file.read_bytes())
            archive.writestr(LICENCE, _licence(card))
            manifest = {"format": FORMAT, "name": card.name, "licence": card.licence, "files": listed}
            archive.writestr(MANIFEST, json.dumps(manifest, indent=1))
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputRefused(f"{target} cannot be written ({error.strerror or error}). Choose another --out.") from error
    return {
        "out": str(target),
        "name": card.name,
        "licence": card.licence,
        "warning": licence_warning(card),
        "files": listed,
    }


def _files(card: BackboneCard, path: Path) -> list[Path]:
    """The weights, in one or several parts, and what has to lie beside them."""
    parts = [path.parent / name for name in part_names(path)] if path.name.endswith(".index.json") else []
    beside = [path.parent / name for name in COMPANIONS.get(card.loader, ())]
    found = [path, *parts, *(file for file in beside if file.is_file())]
    for file in found:
        if not file.is_file():
            raise FileMissing(file, "weights file")
        if file.name in (MANIFEST, CARD, LICENCE):
            raise UsageError(f"A weights file cannot be called {file.name} in a bundle; rename it.")
    return found


def _copied(file: Path, archive: zipfile.ZipFile, name: str) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as source, archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as target:
        while block := source.read(_BLOCK):
            digest.update(block)
            target.write(block)
    return digest.hexdigest()


def _licence(card: BackboneCard) -> str:
    lines = [f"{card.title}: {card.licence or 'licence not stated'}", card.where_to_ask and f"From {card.where_to_ask}"]
    return "\n".join([*filter(None, lines), licence_warning(card), ""])


def licence_warning(card: BackboneCard) -> str:
    """What who passes a backbone on has to know; "" where its licence leaves that free."""
    if not card.licence:
        return f"The licence of {card.title} is not known here: ask its authors before you pass the file on."
    found = limits(of_card(card))
    found += ["only those who accepted its terms may have it"] if card.gated else []
    return f"{card.title} is under {card.licence}: {', '.join(found)}. This holds for this file, too." if found else ""


def install_bundle(bundle: Path) -> dict[str, Any]:
    """Put the backbone of a bundle where it is found by its name; nothing of it is ever run.

    Returns
    -------
    {"name", "folder", "use" (what to give as backbone), "licence", "warning"}

    Raises
    ------
    FileMissing, WeightsRefused : no such file; it is damaged, or holds what no bundle holds.
    OutputRefused : the models folder cannot be written, or has other files of that name.
    """
    if not bundle.is_file():
        raise FileMissing(bundle, "bundle")
    try:
        with zipfile.ZipFile(bundle) as archive:
            manifest = _manifest(archive, bundle.name)
            folder = settings().models_dir / manifest["name"]
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".bundle-", dir=folder.parent) as temporary:
                made = Path(temporary) / manifest["name"]
                made.mkdir()
                for name, facts in manifest["files"].items():
                    _taken_out(archive, name, facts, made / name, bundle.name)
                for name in (CARD, LICENCE):
                    (made / name).write_bytes(archive.read(name))
                card = _card(made / CARD, manifest["name"], bundle.name)
                if not _is_there(folder, manifest["files"]):
                    made.rename(folder)
    except (zipfile.BadZipFile, EOFError, KeyError, RuntimeError) as error:
        if isinstance(error, PathotuneError):
            raise
        raise _damaged(bundle.name, str(error) or type(error).__name__) from None
    except PathotuneError:
        raise
    except OSError as error:
        raise OutputRefused(
            f"The models folder {settings().models_dir} cannot be written ({error.strerror or error}). Set "
            "PATHOTUNE_MODELS to a folder of your own."
        ) from error
    use = card.name if card.name in backbone_names() else str(folder / CARD)
    return {
        "name": card.name,
        "folder": str(folder),
        "use": use,
        "licence": card.licence,
        "warning": licence_warning(card),
    }


def _manifest(archive: zipfile.ZipFile, bundle: str) -> dict[str, Any]:
    """The manifest, checked: names that stay in their folder, and no file that is not listed."""
    try:
        manifest = json.loads(archive.read(MANIFEST))
        name, files = manifest["name"], manifest["files"]
        is_whole = isinstance(name, str) and isinstance(files, dict) and files and isinstance(manifest["format"], int)
        is_whole = is_whole and all(isinstance(facts["sha256"], str) for facts in files.values())
    except (ValueError, KeyError, TypeError):
        is_whole, name, files, manifest = False, "", {}, {}
    if not is_whole:
        raise _damaged(bundle, "it has no list of its files")
    if manifest["format"] > FORMAT:
        raise WeightsRefused(f"{bundle} has the format {manifest['format']}, and this version knows {FORMAT}. Update.")
    for one in (name, *files):
        if not _NAME.fullmatch(one):
            raise WeightsRefused(f"{bundle} names {one!r}, which would leave its folder; it is not installed.")
    others = set(archive.namelist()) - {*files, MANIFEST, CARD, LICENCE}
    if others:
        raise WeightsRefused(f"{bundle} holds {sorted(others)[0]!r}, which is not on its list; it is not installed.")
    return dict(manifest)


def _taken_out(archive: zipfile.ZipFile, name: str, facts: dict[str, Any], target: Path, bundle: str) -> None:
    digest = hashlib.sha256()
    with archive.open(name) as source, target.open("wb") as file:
        while block := source.read(_BLOCK):
            digest.update(block)
            file.write(block)
    if digest.hexdigest() != facts["sha256"]:
        raise _damaged(bundle, f"{name} is not what it was")


def _card(path: Path, name: str, bundle: str) -> BackboneCard:
    """The card of the catalogue where it has this name, else the bundle's own."""
    if name in backbone_names():
        return backbone_card(name)
    try:
        card = read_card(path)
    except TableUnreadable as error:
        raise _damaged(bundle, str(error)) from None
    if card.name != name:
        raise _damaged(bundle, f"its card is that of {card.name}")
    return card


def _is_there(folder: Path, files: dict[str, dict[str, Any]]) -> bool:
    """Whether the very files are installed already; others of that name are not touched."""
    if not folder.exists():
        return False
    for name, facts in files.items():
        path = folder / name
        if not path.is_file() or _sha256(path) != facts["sha256"]:
            raise OutputRefused(f"{folder} is there already with other files. Move it away and install again.")
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(bundle: str, why: str) -> WeightsRefused:
    return WeightsRefused(f"{bundle} is no bundle of pathotune or is damaged ({why}). Copy it again.")
