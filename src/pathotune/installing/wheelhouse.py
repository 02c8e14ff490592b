"""A folder that installs pathotune without internet: wheels, backbones and a script, each with its checksum."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from pathotune.backbones import backbone_card
from pathotune.backbones.bundle import create_bundle, licence_warning
from pathotune.errors import DownloadFailed, FileMissing, MissingPackage, OutputRefused, UsageError
from pathotune.events import Event, Finished, Note, Step
from pathotune.installing.platforms import Target, target_called
from pathotune.resources import resource

FORMAT = 1
MANIFEST, REQUIREMENTS, README = "manifest.json", "requirements.txt", "README.txt"
WHEELS, BACKBONES = "wheels", "backbones"
SCRIPTS = ("install.py", "install.sh", "install.bat")
# Where the torch builds for processors alone lie; on Windows and Macs the ordinary one is such a build.
CPU_TORCH = "https://download.pytorch.org/whl/cpu"
_UV_OPTIONS = {
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "constraint": "--constraints",
}


@dataclass(frozen=True)
class OfflineConfig:
    """What goes into the folder.

    backbones : names of the catalogue or own cards, beside the built-in ones, which come with the program.
    platform : a name of `platforms.TARGETS`; None is this computer's own.
    python : the other computer's version of Python, "3.11"; None is this one's.
    extras : of pathotune; None is what suits the platform.
    source : pathotune itself, a wheel or a folder with its sources; None is where this one was installed from.
    cpu_torch : the torch build without CUDA (Linux; some 3 GB less).
    """

    backbones: tuple[str, ...] = ()
    platform: str | None = None
    python: str | None = None
    extras: tuple[str, ...] | None = None
    source: Path | None = None
    cpu_torch: bool = False


def create_offline_folder(out: Path, config: OfflineConfig | None = None) -> Iterator[Event]:
    """Fill a folder with all that another computer needs; the manifest is written last, so half a folder shows.

    Parameters
    ----------
    out : the folder; a half-done one is gone on with.

    Yields
    ------
    Progress, and Finished with {"out", "pathotune", "platform", "python", "wheels", "backbones", "bytes", "warnings"}.

    Raises
    ------
    UnknownName, UsageError : a platform, version or backbone that there is not.
    OutputRefused : the folder holds other things, or cannot be written.
    DownloadFailed : something could not be fetched; pip's or uv's own words are given.
    """
    config = config or OfflineConfig()
    target, python = target_called(config.platform), _version(config.python)
    cards = [backbone_card(name) for name in config.backbones]
    _may_write(out)
    with tempfile.TemporaryDirectory(prefix="pathotune-offline-") as folder:
        work = Path(folder)
        yield Step("tools", 0, 4, "steps")
        tools = _Tools(work)
        version, wheel = _own_package(tools, config.source, work)
        yield Step("versions", 1, 4, "steps")
        extras = target.extras if config.extras is None else config.extras
        own = f"pathotune[{','.join(extras)}]" + (f" @ {wheel.as_uri()}" if wheel else f"=={version}")
        locked = _resolved(tools, work, target, python, own, config.cpu_torch)
        yield Step("packages", 2, 4, "steps")
        _downloaded(tools, locked, out / WHEELS, target, python, config.cpu_torch)
        if wheel is not None:
            shutil.copy2(wheel, out / WHEELS / wheel.name)
    yield Step("backbones", 3, 4, "steps")
    (out / BACKBONES).mkdir(exist_ok=True)
    for name in config.backbones:
        create_bundle(name, out / BACKBONES)
    warnings = [warning for warning in map(licence_warning, cards) if warning]
    yield from (Note(warning, "warning") for warning in warnings)
    facts = {"format": FORMAT, "pathotune": version, "platform": target.name, "python": python}
    facts |= {"system": target.system, "machine": target.machine}
    files = _finished(out, {**facts, "licences": {card.name: card.licence for card in cards}}, warnings)
    result: dict[str, Any] = {"out": str(out), "pathotune": version, "platform": target.name, "python": python}
    result["wheels"] = sum(name.startswith(f"{WHEELS}/") for name in files)
    result |= {"backbones": [card.name for card in cards], "warnings": warnings}
    yield Finished({**result, "bytes": sum(one["bytes"] for one in files.values())})


def _version(python: str | None) -> str:
    if python is None:
        return ".".join(map(str, sys.version_info[:2]))
    major, _, minor = python.partition(".")
    if major != "3" or not minor.isdecimal() or int(minor) < 11:
        raise UsageError(f"--python is a version such as 3.11 or later, not {python!r}.")
    return python


def _may_write(out: Path) -> None:
    ours = {REQUIREMENTS, WHEELS, BACKBONES, README, *SCRIPTS}
    try:
        out.mkdir(parents=True, exist_ok=True)
        others = {path.name for path in out.iterdir()} - ours
        (out / WHEELS).mkdir(exist_ok=True)
    except OSError as error:
        raise OutputRefused(f"{out} cannot be written ({error.strerror or error}). Choose another --out.") from error
    if others:
        raise OutputRefused(f"{out} is not empty ({sorted(others)[0]}). Choose a new folder with --out.")


class _Tools:
    """pip and uv: those of this computer, or others in a folder that goes afterwards."""

    def __init__(self, work: Path) -> None:
        self._work = work
        has_pip = importlib.util.find_spec("pip") is not None
        self.python = sys.executable if has_pip else self._own_python()
        self.uv = shutil.which("uv") or self._own_uv()

    def _own_python(self) -> str:
        folder = self._work / "tools"
        try:
            venv.create(folder, with_pip=True)
        except subprocess.CalledProcessError as error:
            raise MissingPackage("pip", "pathotune bundle offline", "python -m ensurepip") from error
        return str(_first(folder / "bin" / "python", folder / "Scripts" / "python.exe"))

    def _own_uv(self) -> str:
        folder = self._work / "uv"
        run(self.pip("install", "--quiet", "--target", folder, "uv"), "uv, which chooses the versions")
        return str(_first(folder / "bin" / "uv", folder / "bin" / "uv.exe"))

    def pip(self, *words: str | Path) -> list[str]:
        """A command of pip."""
        return [self.python, "-m", "pip", *map(str, words)]

    def pip_settings(self) -> str:
        """What `pip config list` prints."""
        return subprocess.run(self.pip("config", "list"), capture_output=True, text=True, check=False).stdout


def _first(*paths: Path) -> Path:
    return next(path for path in paths if path.exists())


def run(command: Sequence[str], what: str) -> None:
    """Run a step that fetches something; raises DownloadFailed with the last lines it printed."""
    done = subprocess.run(list(command), capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise DownloadFailed(what, " ".join(lines[-4:])[-600:])


def _own_package(tools: _Tools, source: Path | None, work: Path) -> tuple[str, Path | None]:
    """The version of pathotune to take, and its wheel where it does not come from the index."""
    installed = distribution("pathotune")
    if source is None:
        origin = json.loads(installed.read_text("direct_url.json") or "{}").get("url", "")
        if not origin.startswith("file:"):
            return installed.version, None
        source = Path(url2pathname(urlparse(origin).path))
    if not source.exists():
        raise FileMissing(source, "wheel or source folder of pathotune (give it with --source)")
    if source.is_dir():
        run(tools.pip("wheel", "--quiet", "--no-deps", "--wheel-dir", work / "own", source), "pathotune's own wheel")
        source = next((work / "own").glob("pathotune-*.whl"))
    parts = source.name.split("-")
    if source.suffix != ".whl" or parts[0] != "pathotune" or len(parts) < 5:
        raise UsageError(f"{source} is no wheel of pathotune. Give pathotune-VERSION-py3-none-any.whl, or its sources.")
    return parts[1], source.resolve()


def _resolved(tools: _Tools, work: Path, target: Target, python: str, own: str, cpu_torch: bool) -> Path:
    """All packages but pathotune from a file, with versions and hashes, as the other system needs them."""
    asked, locked = work / "asked.txt", work / "locked.txt"
    asked.write_text(f"{own}\npip\n", encoding="utf-8")
    words = ["pip", "compile", "--quiet", "--no-header", "--generate-hashes", "--only-binary", ":all:"]
    words += ["--python-platform", target.uv, "--python-version", python, "-o", str(locked), str(asked)]
    words += ["--no-emit-package", "pathotune"] if " @ " in own else []
    words += ["--torch-backend", "cpu"] if cpu_torch and target.system == "linux" else []
    words += _as_for_uv(tools.pip_settings())
    run([tools.uv, *words], f"the list of packages for {target.name}")
    return locked


def _as_for_uv(settings: str) -> list[str]:
    """What a person or her institution told pip (`pip config list`), for uv, which does not read it: both ask there."""
    words: list[str] = []
    for line in settings.splitlines():
        name, _, value = line.partition("=")
        option = _UV_OPTIONS.get(name.rpartition(".")[2])
        try:
            values = str(ast.literal_eval(value)).split() if option else []
        except (ValueError, SyntaxError):
            continue
        words += [word for one in values for word in (option or "", one)]
    # As pip does: the newest of all places, whichever of them was named first.
    return [*words, "--index-strategy", "unsafe-best-match"] if words else []


def _downloaded(tools: _Tools, locked: Path, wheels: Path, target: Target, python: str, cpu_torch: bool) -> None:
    """Every wheel of the list; pip compares each with the hash that the index gives for it."""
    words: list[str | Path] = ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", wheels]
    words += ["--python-version", python, "--implementation", "cp"]
    words += [word for tag in target.tags for word in ("--platform", tag)]
    words += ["--extra-index-url", CPU_TORCH] if cpu_torch and target.system == "linux" else []
    run(tools.pip(*words, "--require-hashes", "-r", locked), "the packages")


def _finished(out: Path, facts: dict[str, Any], warnings: list[str]) -> dict[str, dict[str, Any]]:
    """Requirements, scripts and a page for people, then the manifest over all of them; gives the list of files."""
    try:
        lines = [_pinned(wheel) for wheel in sorted((out / WHEELS).glob("*.whl"))]
        (out / REQUIREMENTS).write_text("\n".join(lines) + "\n", encoding="utf-8")
        for name in SCRIPTS:
            shutil.copy2(resource("offline", name), out / name)
        (out / README).write_text(_page(facts, warnings), encoding="utf-8")
        files = {}
        for path in sorted(path for path in out.rglob("*") if path.is_file()):
            files[path.relative_to(out).as_posix()] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        text = json.dumps({**facts, "files": files}, indent=1, ensure_ascii=False)
        (out / MANIFEST).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputRefused(f"{out} cannot be written ({error.strerror or error}).") from error
    return files


def _pinned(wheel: Path) -> str:
    name, version = wheel.name.split("-")[:2]
    return f"{name}=={version} --hash=sha256:{_sha256(wheel)}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _page(facts: dict[str, Any], warnings: list[str]) -> str:
    licences = [f"  {name}: {licence or 'licence not stated'}" for name, licence in facts["licences"].items()]
    lines = [
        f"pathotune {facts['pathotune']} for {facts['platform']} with Python {facts['python']}, without internet.",
        "",
        "1. Copy this folder to the other computer. It needs Python of this version there, and no admin rights.",
        "2. Linux and macOS:  sh install.sh          Windows:  install.bat",
        "   It goes into the folder pathotune of your home; --to FOLDER chooses another.",
        "3. It compares every file with its checksum, installs, and lets `pathotune doctor` look.",
        "",
        "Research use only. Not for diagnosis.",
    ]
    return "\n".join([*lines, *(["", "Backbones and their licences:", *licences, *warnings] if licences else []), ""])
