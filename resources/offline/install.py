"""Install pathotune from this folder, without internet and without admin rights.

    python install.py [--to FOLDER]

Needs Python of the version that manifest.json names and nothing else. Every file is compared with its checksum before
anything of it is used; that finds damage on the way, and is no signature.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
MANIFEST, REQUIREMENTS, WHEELS, BACKBONES = "manifest.json", "requirements.txt", "wheels", "backbones"


def stop(sentence):
    """End with one sentence."""
    print(f"pathotune: {sentence}", file=sys.stderr)
    sys.exit(1)


def read_manifest():
    """What the folder holds."""
    try:
        return json.loads((HERE / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        stop(f"{HERE} is not whole: {MANIFEST} is missing or damaged. Copy the folder again.")


def check_computer(manifest):
    """The folder's wheels are for one version of Python and one system."""
    here = ".".join(str(number) for number in sys.version_info[:2])
    if here != manifest["python"]:
        stop(f"this folder is for Python {manifest['python']}, and {sys.executable} is {here}. Use the other one.")
    wanted = (manifest["system"], manifest["machine"].lower())
    if (sys.platform, platform.machine().lower()) != wanted:
        stop(f"this folder is for {manifest['platform']}, and this computer is {sys.platform} {platform.machine()}.")


def check_files(files):
    """Every listed file is what it was, and no other wheel or backbone has come into the folder."""
    for name, facts in files.items():
        path = HERE / name
        if not path.is_file():
            stop(f"{name} is missing. Copy the folder again.")
        digest = hashlib.sha256()
        with path.open("rb") as file:
            for block in iter(lambda: file.read(2**20), b""):
                digest.update(block)
        if digest.hexdigest() != facts["sha256"]:
            stop(f"{name} is not what it was when the folder was made. Copy the folder again.")
    for part in (WHEELS, BACKBONES):
        for path in sorted((HERE / part).glob("*")):
            if f"{part}/{path.name}" not in files:
                stop(f"{part}/{path.name} is not on the folder's list. Remove it, or copy the folder again.")


def program(folder, name):
    """The path of a program of a virtual environment."""
    return folder / ("Scripts" if os.name == "nt" else "bin") / (f"{name}.exe" if os.name == "nt" else name)


def run(*command):
    """Run a step; its exit code."""
    # What is set for other Pythons of this person must not reach into this one.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment["PYTHONUTF8"] = "1"
    return subprocess.run([str(word) for word in command], check=False, env=environment).returncode


def install(folder):
    """A virtual environment with exactly the wheels of the list; pip runs from its own wheel, so none is needed."""
    if folder.exists() and any(folder.iterdir()):
        stop(f"{folder} is there already. Remove it, or choose another folder with --to.")
    venv.create(folder, with_pip=False)
    python = program(folder, "python")
    pip = sorted((HERE / WHEELS).glob("pip-*.whl"))[-1] / "pip"
    command = [python, pip, "--isolated", "--disable-pip-version-check", "--no-cache-dir", "install", "--quiet"]
    command += ["--no-index", "--no-deps", "--require-hashes", "--find-links", HERE / WHEELS]
    if run(*command, "-r", HERE / REQUIREMENTS) or run(python, "-m", "pip", "--isolated", "check"):
        stop(f"the installation did not go through; the lines above say why. Remove {folder} and try again.")
    return python


def main():
    """Check, install, bring the backbones, let the doctor look."""
    parser = argparse.ArgumentParser(description="Install pathotune from this folder, without internet.")
    parser.add_argument("--to", type=Path, default=Path.home() / "pathotune", help="the folder to install into")
    folder = parser.parse_args().to.expanduser().absolute()
    manifest = read_manifest()
    check_computer(manifest)
    print(f"Comparing {len(manifest['files'])} files with their checksums …", flush=True)
    check_files(manifest["files"])
    print(f"Installing pathotune {manifest['pathotune']} into {folder}; this takes minutes …", flush=True)
    python = install(folder)
    for name in sorted(name for name in manifest["files"] if name.startswith(f"{BACKBONES}/")):
        if run(python, "-m", "pathotune", "bundle", "install", HERE / name):
            stop(f"{name} could not be installed; the program itself is. The line above says why.")
    code = run(python, "-m", "pathotune", "doctor")
    start = program(folder, "pathotune")
    print(f"\nStart it with:  {start} view\nA start icon:   {start} view --shortcut\nTry it:         {start} demo")
    sys.exit(code)


if __name__ == "__main__":
    main()
