"""What stands beside the code says the same as the code: versions, dependencies, and no place of one computer."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
with (ROOT / "pyproject.toml").open("rb") as file:
    PROJECT = tomllib.load(file)["project"]
# What conda-forge calls otherwise.
CONDA = {"torch": "pytorch", "openslide-bin": "openslide"}


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(cited["version"]) == PROJECT["version"] and cited["license"] == PROJECT["license"]
    assert cited["cff-version"] == "1.2.0" and cited["authors"] and cited["title"] and cited["message"]


def test_the_conda_recipe_needs_what_the_project_needs() -> None:
    text = (ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    needed = {
        line.split()[1] for line in re.findall(r"^    - .+$", text.partition("  run:")[2].partition("  run_c")[0], re.M)
    }
    ours = {CONDA.get(name, name) for name in (Requirement(one).name for one in PROJECT["dependencies"])}
    assert needed == ours | {"python"}
    assert f'version: "{PROJECT["version"]}"' in text


def test_the_lock_names_no_place_and_holds_what_is_needed() -> None:
    text = (ROOT / "requirements-lock.txt").read_text(encoding="utf-8")
    assert "://" not in text and "--index" not in text and "--find-links" not in text
    locked = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", text, re.M))
    for need in map(Requirement, PROJECT["dependencies"]):
        version = locked[canonicalize_name(need.name)]
        assert need.specifier.contains(version), f"{need} is locked at {version}: tox -e lock"
    assert text.count("--hash=sha256:") >= len(locked)


def test_the_containers_start_the_program_as_nobody_special() -> None:
    for name in ("cpu", "cuda"):
        text = (ROOT / "containers" / f"{name}.Dockerfile").read_text(encoding="utf-8")
        assert 'ENTRYPOINT ["pathotune"]' in text and "USER pathotune" in text


def test_no_secret_is_needed_for_a_release() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))["jobs"]
    assert jobs["publish"]["permissions"]["id-token"] == "write" and "password" not in str(jobs)


def test_text_files_have_the_ends_of_lines_of_their_systems() -> None:
    """A checkout that turned them over would give scripts that do not run."""
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    said = subprocess.run(
        ["git", "ls-files", "--eol", "resources/offline"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    ends = {line.split("\t")[1]: line.split()[0] for line in said.splitlines()}
    assert ends["resources/offline/install.bat"] == "i/crlf" and ends["resources/offline/install.sh"] == "i/lf"
