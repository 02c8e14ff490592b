"""A folder made on one computer installs on another: every file compared, no index asked, no rights needed."""

from __future__ import annotations

import base64
import ensurepip
import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pathotune.cli import app
from pathotune.errors import DownloadFailed
from pathotune.installing import wheelhouse
from pathotune.installing.platforms import TARGETS, target_called
from pathotune.resources import resource

# What stands for the program in these tests: it writes down what it is called with.
PROGRAM = """
import pathlib, sys
with (pathlib.Path(sys.prefix) / "called.txt").open("a") as file:
    print(*sys.argv[1:], file=file)
"""
HERE = ".".join(map(str, sys.version_info[:2]))


def make_wheel(folder: Path, name: str, files: dict[str, str], needs: str = "") -> Path:
    """A small wheel that pip installs."""
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n" + (f"Requires-Dist: {needs}\n" if needs else "")
    files = {
        **files,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items():
            archive.writestr(inside, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{inside},sha256={digest},{len(text.encode())}\n"
        archive.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return path


@pytest.fixture
def own_wheel(tmp_path: Path) -> Path:
    """A wheel called pathotune that needs another one."""
    (tmp_path / "own").mkdir()
    return make_wheel(tmp_path / "own", "pathotune", {"pathotune/__main__.py": PROGRAM}, needs="needed")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """uv and pip replaced: the one writes an empty list, the other brings wheels that lie here already."""
    asked: list[list[str]] = []

    def run(command: list[str], what: str) -> None:
        asked.append(list(command))
        if "--dest" in command:
            wheels = Path(command[command.index("--dest") + 1])
            make_wheel(wheels, "needed", {"needed.py": ""})
            # Some systems keep the wheels that Python itself comes with in a folder of their own.
            own = sysconfig.get_config_var("WHEEL_PKG_DIR") or Path(ensurepip.__file__).parent / "_bundled"
            for bundled in Path(own).glob("pip-*.whl"):
                (wheels / bundled.name).write_bytes(bundled.read_bytes())
        elif "-o" in command:
            Path(command[command.index("-o") + 1]).write_text("needed==1.0\n")

    monkeypatch.setattr(wheelhouse, "run", run)
    monkeypatch.setattr(wheelhouse.importlib.util, "find_spec", lambda name: object())
    return asked


@pytest.fixture
def made(no_network: Any, own_wheel: Path, tmp_path: Path) -> Path:
    """A finished folder."""
    out = tmp_path / "stick mit Umlauten äöü"
    answer = CliRunner().invoke(app, ["bundle", "offline", "--out", str(out), "--source", str(own_wheel), "--json"])
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["wheels"] == 3
    return out


def install(folder: Path, to: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run the install script as a person does, in an environment in which pip is told of an index that is none."""
    script = ["sh", str(folder / "install.sh")] if os.name != "nt" else [sys.executable, str(folder / "install.py")]
    environment = {**os.environ, "HOME": str(home), "PIP_INDEX_URL": "https://index.invalid/simple"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run([*script, "--to", str(to)], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
def test_there_and_back(made: Path, tmp_path: Path) -> None:
    to = tmp_path / "installed"
    answer = install(made, to, tmp_path)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert (to / "called.txt").read_text().splitlines() == ["doctor"], "the doctor looks at the end"
    assert "view --shortcut" in answer.stdout and str(to) in answer.stdout
    again = install(made, to, tmp_path)
    assert again.returncode == 1 and "is there already" in again.stderr and "Traceback" not in again.stderr


@pytest.mark.slow
def test_a_backbone_comes_along(made: Path, tmp_path: Path) -> None:
    bundle = made / "backbones" / "x.pathotune-backbone.zip"
    bundle.write_bytes(b"weights")
    manifest = json.loads((made / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"]["backbones/x.pathotune-backbone.zip"] = {"sha256": hashlib.sha256(b"weights").hexdigest()}
    (made / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert install(made, tmp_path / "installed", tmp_path).returncode == 0
    called = (tmp_path / "installed" / "called.txt").read_text().splitlines()
    assert called == [f"bundle install {bundle}", "doctor"]


def damage(folder: Path) -> None:
    wheel = folder / "wheels" / "needed-1.0-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes() + b" ")


def forget(folder: Path) -> None:
    (folder / "wheels" / "needed-1.0-py3-none-any.whl").unlink()


def slip_in(folder: Path) -> None:
    make_wheel(folder / "wheels", "stranger", {"stranger.py": ""})


def restate(**facts: str) -> Any:
    def change(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        (folder / "manifest.json").write_text(json.dumps({**manifest, **facts}), encoding="utf-8")

    return change


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (damage, "not what it was"),
        (forget, "is missing"),
        (slip_in, "not on the folder's list"),
        (lambda folder: (folder / "manifest.json").unlink(), "not whole"),
        (restate(python="3.9"), "for Python 3.9"),
        (restate(system="amiga", platform="amiga"), "is for amiga"),
    ],
)
def test_what_is_not_whole_is_not_installed(made: Path, tmp_path: Path, change: Any, word: str) -> None:
    change(made)
    answer = install(made, tmp_path / "installed", tmp_path)
    assert answer.returncode == 1 and word in answer.stderr and "Traceback" not in answer.stderr
    assert not (tmp_path / "installed").exists()


def test_a_package_that_lacks_is_said(made: Path, tmp_path: Path) -> None:
    """A list without a package that another needs: pip's own check finds it before anyone starts the program."""
    manifest = json.loads((made / "manifest.json").read_text(encoding="utf-8"))
    lines = [line for line in (made / "requirements.txt").read_text().splitlines() if not line.startswith("needed")]
    (made / "requirements.txt").write_text("\n".join(lines))
    manifest["files"]["requirements.txt"]["sha256"] = wheelhouse._sha256(made / "requirements.txt")
    (made / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    answer = install(made, tmp_path / "installed", tmp_path)
    assert answer.returncode == 1 and "did not go through" in answer.stderr and "needed" in answer.stdout


def test_the_list_of_what_is_in_it(made: Path) -> None:
    manifest = json.loads((made / "manifest.json").read_text(encoding="utf-8"))
    on_disk = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()} - {"manifest.json"}
    assert set(manifest["files"]) == on_disk
    assert (manifest["python"], manifest["platform"]) == (HERE, target_called().name)
    assert (
        "--hash=sha256:" in (made / "requirements.txt").read_text()
        and "install.bat" in (made / "README.txt").read_text()
    )


def test_other_systems_are_resolved_as_themselves(no_network: Any, own_wheel: Path, tmp_path: Path) -> None:
    call = ["bundle", "offline", "--source", str(own_wheel), "--out", str(tmp_path / "w"), "--platform", "windows"]
    assert CliRunner().invoke(app, [*call, "--python", "3.13", "--extras", "none"]).exit_code == 0
    resolving, fetching = no_network
    assert "x86_64-pc-windows-msvc" in resolving and "3.13" in resolving
    assert "win_amd64" in fetching and "3.13" in fetching and "--require-hashes" in fetching
    manifest = json.loads((tmp_path / "w" / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["system"], manifest["machine"]) == ("win32", "AMD64")


def test_torch_without_cuda(no_network: Any, own_wheel: Path, tmp_path: Path) -> None:
    call = ["bundle", "offline", "--source", str(own_wheel), "--cpu-torch", "--out"]
    assert CliRunner().invoke(app, [*call, str(tmp_path / "l"), "--platform", "linux"]).exit_code == 0
    assert no_network[0][no_network[0].index("--torch-backend") + 1] == "cpu" and wheelhouse.CPU_TORCH in no_network[1]
    assert CliRunner().invoke(app, [*call, str(tmp_path / "m"), "--platform", "macos"]).exit_code == 0
    assert wheelhouse.CPU_TORCH not in no_network[3], "there the ordinary build is one"


def test_what_cannot_be_made(own_wheel: Path, tmp_path: Path, no_network: Any) -> None:
    call = ["bundle", "offline", "--source", str(own_wheel), "--out", str(tmp_path / "x")]
    for words, word in (
        (["--platform", "amiga"], "no platform called"),
        (["--python", "3.9"], "3.11 or later"),
        (["--backbone", "pathotune-tinny"], "no backbone called"),
    ):
        answer = CliRunner().invoke(app, [*call, *words])
        assert word in str(answer.exception)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.docx").write_text("mine")
    assert "not empty" in str(CliRunner().invoke(app, call).exception)
    wrong = CliRunner().invoke(app, ["bundle", "offline", "--source", __file__, "--out", str(tmp_path / "y")])
    assert "no wheel of pathotune" in str(wrong.exception)


def test_what_the_fetching_program_says_is_handed_on() -> None:
    code = "import sys; print('ERROR: no route to host', file=sys.stderr); sys.exit(1)"
    with pytest.raises(DownloadFailed, match="no route to host"):
        wheelhouse.run([sys.executable, "-c", code], "the packages")


def test_what_pip_was_told_holds_for_uv_too() -> None:
    told = "global.index-url='https://mirror.invalid/simple'\nglobal.constraint='/etc/c.txt'\n:env:.timeout='9'\nodd"
    assert wheelhouse._as_for_uv(told) == [
        "--default-index",
        "https://mirror.invalid/simple",
        "--constraints",
        "/etc/c.txt",
        "--index-strategy",
        "unsafe-best-match",
    ]
    assert wheelhouse._as_for_uv(":env:.timeout='9'") == []


def test_the_scripts_are_of_their_systems() -> None:
    assert b"\r" not in resource("offline", "install.sh").read_bytes()
    bat = resource("offline", "install.bat").read_bytes()
    assert bat.count(b"\r\n") == bat.count(b"\n") > 5
    assert {target.system for target in TARGETS.values()} == {"linux", "win32", "darwin"}
