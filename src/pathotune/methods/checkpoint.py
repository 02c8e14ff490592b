"""The tuning file: what was trained, and everything that is needed to use it again, without any pickle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pathotune.errors import FileMissing, OutputRefused, TuningUnreadable

if TYPE_CHECKING:
    from pathotune.tiles.tileset import Reading

FORMAT = 1
METADATA_KEY = "pathotune"
SUFFIX = ".pathotune.safetensors"
TRAINED, TEXT_VECTORS, STATISTICS = "trained.", "text.vectors", "statistics."
TILE_TUNING = "tile_tuning."
# What the file must say; the rest has defaults, so that later formats may add to it.
MOST_HEADER_BYTES = 100_000_000  # as safetensors has it
REQUIRED = ("method", "config", "classes", "backbone", "reading")


@dataclass
class Tuning:
    """A tuned model without its backbone.

    Attributes
    ----------
    method, config : name in `methods.METHODS`, and its config as a plain dict.
    task : plain dict of the task card it was made for.
    classes : ``[{"name", "color"}]`` in the order of the logits.
    backbone : name, source, sha256, embed_dim, output_dim, image_size, patch_size, mpp, mean, std, licence.
    reading : how tiles are read; always followed.
    texts : the sentences whose vectors are in the file.
    text_encoder : ``{"name", "dim"}`` or None.
    training : slides (pseudonyms), regions, tiles_per_class, split, seed, epochs, metrics.
    calibration : ``{"temperature": float, …}``.
    feature_statistics : facts on the training tiles' features; the numbers are in the tensors "statistics.…".
    genes : what is known of the genes that are predicted or read (`datasets.expression.GeneScaler.to_dict`, and the
        correlation of each on held-out samples); None where the method knows none.
    pathways_sha256 : fingerprint of the pathways they were grouped by.
    tensors : everything numeric by name, float32, or float16 where it was given so: "trained.…", "text.vectors",
        "statistics.…".
    embedded : what the metadata says of the tile tuning whose features this one takes, with its "fingerprint"; its
        tensors are among ours, as "tile_tuning.…" (`embed`, `tile_tuning`). None where it takes the backbone's own.
    path : the file it was loaded from or saved to.
    """

    method: str
    config: dict[str, Any]
    task: dict[str, Any]
    classes: list[dict[str, Any]]
    backbone: dict[str, Any]
    reading: Reading
    texts: tuple[str, ...] = ()
    text_encoder: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=lambda: {"temperature": 1.0})
    feature_statistics: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""
    genes: dict[str, Any] | None = None
    pathways_sha256: str | None = None
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    embedded: dict[str, Any] | None = None
    path: Path | None = None
    _fingerprint: str = ""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the logits."""
        return tuple(str(entry["name"]) for entry in self.classes)

    @property
    def name(self) -> str:
        """The file's name without its endings; "untitled" before it is saved."""
        return tuning_name(self.path) if self.path else "untitled"

    @property
    def trained(self) -> dict[str, np.ndarray]:
        """The trained tensors under the names the method's model gives them."""
        return {key[len(TRAINED) :]: value for key, value in self.tensors.items() if key.startswith(TRAINED)}

    @property
    def text_vectors(self) -> np.ndarray | None:
        """(M, D_t) float32 vectors of `texts`, or None."""
        return self.tensors.get(TEXT_VECTORS)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file's bytes (of what the file would be, before it is saved)."""
        if not self._fingerprint:
            self._fingerprint = hashlib.sha256(self._bytes()).hexdigest()
        return self._fingerprint

    def embed(self, tile_tuning: Tuning) -> None:
        """Take a tile tuning in whole, so that one file holds all that is needed to predict."""
        self.embedded = {**tile_tuning.metadata(), "fingerprint": tile_tuning.fingerprint, "name": tile_tuning.name}
        self.tensors = {key: value for key, value in self.tensors.items() if not key.startswith(TILE_TUNING)}
        self.tensors.update({TILE_TUNING + key: value for key, value in tile_tuning.tensors.items()})

    @property
    def tile_tuning(self) -> Tuning | None:
        """The tile tuning that was embedded, with the fingerprint of the file it was; None without one."""
        if self.embedded is None:
            return None
        tensors = {key[len(TILE_TUNING) :]: value for key, value in self.tensors.items() if key.startswith(TILE_TUNING)}
        inner = Tuning._from_metadata(self.embedded, tensors, self.name)
        inner._fingerprint = str(self.embedded["fingerprint"])
        return inner

    def metadata(self) -> dict[str, Any]:
        """What stands in the file's metadata."""
        return {
            "format": FORMAT,
            "method": self.method,
            "config": self.config,
            "task": self.task,
            "classes": self.classes,
            "backbone": self.backbone,
            "reading": self.reading.to_dict(),
            "texts": list(self.texts),
            "text_encoder": self.text_encoder,
            "genes": self.genes,
            "pathways_sha256": self.pathways_sha256,
            "training": self.training,
            "calibration": self.calibration,
            "feature_statistics": self.feature_statistics,
            "versions": self.versions,
            "created": self.created,
            **({} if self.embedded is None else {"tile_tuning": self.embedded}),
        }

    def save(self, path: str | Path) -> Path:
        """Write the file and the card beside it (NAME.md), each whole or not at all.

        Returns
        -------
        The path of the file: the one given, with `.safetensors` added where it lacks it.

        Raises
        ------
        OutputRefused
            The folder cannot be written to.
        """
        from pathotune.methods.card import model_card

        target = tuning_path(path)
        self.created = self.created or datetime.now(UTC).isoformat(timespec="seconds")
        self.versions = self.versions or library_versions()
        content = self._bytes()
        self._fingerprint = hashlib.sha256(content).hexdigest()
        _write(target, content)
        self.path = target
        _write(card_path(target), model_card(self).encode("utf-8"))
        return target

    @classmethod
    def load(cls, path: str | Path) -> Tuning:
        """Read a tuning file strictly.

        Raises
        ------
        FileMissing
            There is no such file.
        TuningUnreadable
            It is damaged, no tuning, or of a newer format than this version knows.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load as load_tensors

        source = Path(path)
        if not source.is_file():
            raise FileMissing(source, "tuning")
        content = source.read_bytes()
        try:
            tensors = load_tensors(content)
        except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise TuningUnreadable(
                f"{source.name} is not a tuning of pathotune or is damaged ({error}). "
                "Copy it again from where it was made."
            ) from None
        tuning = cls._from_metadata(_metadata(content, source.name), tensors, source.name)
        tuning.path = source
        tuning._fingerprint = hashlib.sha256(content).hexdigest()
        return tuning

    @classmethod
    def _from_metadata(cls, data: dict[str, Any], tensors: dict[str, np.ndarray], name: str) -> Tuning:
        from pathotune.tiles.tileset import Reading

        data = _current(data, name)
        missing = [key for key in REQUIRED if key not in data]
        if missing:
            raise TuningUnreadable(f"{name} lacks {', '.join(missing)}: it is no complete tuning of pathotune.")
        _check_names_no_file(data["backbone"], name)
        try:
            return cls(
                method=str(data["method"]),
                config=dict(data["config"]),
                task=dict(data.get("task") or {}),
                classes=[{"name": str(entry["name"]), "color": entry.get("color")} for entry in data["classes"]],
                backbone={
                    "name": data["backbone"]["name"],
                    "embed_dim": data["backbone"]["embed_dim"],
                    **data["backbone"],
                },
                reading=Reading.from_dict(data["reading"]),
                texts=tuple(data.get("texts") or ()),
                text_encoder=data.get("text_encoder"),
                training=dict(data.get("training") or {}),
                calibration=dict(data.get("calibration") or {"temperature": 1.0}),
                feature_statistics=dict(data.get("feature_statistics") or {}),
                versions=dict(data.get("versions") or {}),
                created=str(data.get("created", "")),
                genes=data.get("genes"),
                pathways_sha256=data.get("pathways_sha256"),
                tensors=tensors,
                embedded=data.get("tile_tuning"),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, TuningUnreadable):
                raise
            raise TuningUnreadable(f"{name} is no complete tuning of pathotune ({error!r}).") from None

    def _bytes(self) -> bytes:
        from safetensors.numpy import save as save_tensors

        arrays = {key: np.ascontiguousarray(value, dtype=_stored(value)) for key, value in self.tensors.items()}
        text = json.dumps(self.metadata(), ensure_ascii=False, sort_keys=True)
        content: bytes = save_tensors(arrays, metadata={METADATA_KEY: text})
        return content


def _stored(value: np.ndarray) -> type[np.floating[Any]]:
    return np.float16 if value.dtype == np.float16 else np.float32


def described(path: str | Path) -> dict[str, Any]:
    """What stands in a tuning file's metadata, without its tensors: cheap for a file of any size.

    Raises
    ------
    FileMissing
        There is no such file.
    TuningUnreadable
        It is damaged, no tuning, or of a newer format than this version knows.
    """
    source = Path(path)
    if not source.is_file():
        raise FileMissing(source, "tuning")
    try:
        with source.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if length > min(MOST_HEADER_BYTES, source.stat().st_size):
                raise ValueError("its header is longer than the file")
            data = _current(_metadata(start + file.read(length), source.name), source.name)
    except TuningUnreadable:
        raise
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise TuningUnreadable(
            f"{source.name} is not a tuning of pathotune or is damaged ({error}). Copy it again from where it was made."
        ) from None
    return data


def tuning_name(path: str | Path) -> str:
    """The tuning's name from its file: `NAME.pathotune.safetensors` and `NAME.safetensors` give NAME."""
    return Path(path).name.removesuffix(".safetensors").removesuffix(".pathotune")


def tuning_path(path: str | Path) -> Path:
    """Where a tuning called so is written: as given, or with the usual ending where there is none."""
    target = Path(path)
    return target if target.name.endswith(".safetensors") else target.with_name(target.name + SUFFIX)


def card_path(path: str | Path) -> Path:
    """The model card beside a tuning file: NAME.md."""
    return Path(path).with_name(f"{tuning_name(path)}.md")


def check_writable(path: str | Path) -> None:
    """Raise OutputRefused now, before any work, where a tuning could not be written to that place afterwards."""
    target = tuning_path(path)
    if target.is_dir():
        raise OutputRefused(f"{target} is a folder; give --out the name of a file.")
    trial = target.with_name(f".{target.name}.{os.getpid()}.trial")
    _write(trial, b"", named=target)
    trial.unlink()


def library_versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for package in ("pathotune", "torch", "timm", "transformers", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _check_names_no_file(backbone: Any, name: str) -> None:
    """A tuning that comes from someone else must not make this computer open a file by its path."""
    encoder = backbone.get("slide_encoder") if isinstance(backbone, dict) else None
    for facts in (backbone, encoder):
        called = facts.get("name") if isinstance(facts, dict) else None
        if isinstance(called, str) and (
            any(mark in called for mark in "/\\") or called.endswith((".yaml", ".yml", ".safetensors"))
        ):
            raise TuningUnreadable(
                f"{name} names a file as its backbone ({called!r}), which no tuning does; it is not used. Ask whoever "
                "made it for another copy."
            )


def _metadata(content: bytes, name: str) -> dict[str, Any]:
    """The JSON under our key in the safetensors header."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    text = (header.get("__metadata__") or {}).get(METADATA_KEY)
    if text is None:
        raise TuningUnreadable(
            f"{name} is a safetensors file, but no tuning of pathotune (it may hold the weights of a backbone)."
        )
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise TuningUnreadable(
            f"{name} is damaged: its description cannot be read. Copy it again from where it was made."
        )
    return data


def _current(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The metadata as today's format has it.

    Every format once released stays readable: a reader for an older one is added here and turns it into the next.
    """
    version = data.get("format")
    if not isinstance(version, int) or version < 1:
        raise TuningUnreadable(f"{name} does not say which format it has, so it is no tuning of pathotune.")
    if version > FORMAT:
        raise TuningUnreadable(
            f"{name} has format {version}, and this version of pathotune reads up to {FORMAT}. Update pathotune."
        )
    return dict(data)


def _write(target: Path, content: bytes, named: Path | None = None) -> None:
    """Write beside the target and rename, so that a reader never sees half a file; a refusal names `named`."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise OutputRefused(
            f"{named or target} cannot be written ({reason}). Choose another place with --out."
        ) from None
