"""What the pages and the help promise: links that lead somewhere, tests that exist, an example for every command."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pathotune.cli import app

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "CHANGELOG.md",
    *sorted(DOCS.glob("*.md")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED_TEST = re.compile(r"`([a-z_/]+/test_[a-z_0-9]+\.py)::(test_[a-z_0-9]+)`")


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The scripts of docs/ can be imported."""
    monkeypatch.syspath_prepend(str(DOCS))
    yield
    for name in ("generated_parts", "system_figures"):
        sys.modules.pop(name, None)


def anchors(page: Path) -> set[str]:
    """What a repository's page calls the headings of a file."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path, parts: None) -> None:
    from generated_parts import commands, fill

    from pathotune.methods import METHODS

    made = {name.replace(" ", "-") for name, _ in commands()} | set(METHODS)
    for link in LINK.findall(
        fill(page.read_text(encoding="utf-8")) if page.parent == DOCS else page.read_text("utf-8")
    ):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            known = anchors(target) | (made if target.name in ("commands.md", "settings.md") else set())
            assert anchor in known, f"{page.name} links to {link}; headings: {sorted(known)}"


def test_tests_that_pages_name_exist() -> None:
    named = NAMED_TEST.findall((DOCS / "answers.md").read_text(encoding="utf-8"))
    assert len(named) > 100
    for path, name in named:
        source = (REPOSITORY / "tests" / path).read_text(encoding="utf-8")
        assert re.search(rf"^\s*(async )?def {name}\(", source, flags=re.MULTILINE), f"{path}::{name}"


def test_every_row_has_an_answer() -> None:
    rows = re.findall(
        r"^\| (\d+) \|(.+)\|(.+)\|$", (DOCS / "answers.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert [int(number) for number, _, _ in rows] == [*range(1, 67), *range(1, 25), *range(1, 20)]
    assert all(len(answer.strip()) > 10 for _, _, answer in rows)


def test_sentences_that_the_page_of_errors_explains_are_said_somewhere() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "src").rglob("*.py"))
    said = re.sub(r'" *\n\s*f?"', "", code)  # literals that follow each other are one sentence
    text = (DOCS / "errors.md").read_text(encoding="utf-8").partition("## In napari")[0]
    quoted = [quote for line in re.findall(r"^### (.+)$", text, flags=re.M) for quote in re.findall(r'"([^"]+)"', line)]
    assert len(quoted) > 15
    for quote in quoted:
        for part in filter(None, (part.strip(" ,") for part in quote.split("…"))):
            assert part in said, f"nothing says {part!r}"


def test_every_command_has_help_with_an_example(parts: None) -> None:
    from generated_parts import commands

    found = dict(commands())
    assert len(found) >= 20
    alone = CliRunner().invoke(app, ["--help"]).output
    assert "pathotune demo --out" in alone.partition("Examples:")[2]
    for name in found:
        answer = CliRunner().invoke(app, [*name.split()[1:], "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
        assert answer.exit_code == 0, name
        assert re.search(rf"Examples?:(.|\n)*{name} ", re.sub(r"[│╭╰]", " ", answer.output)), name


def test_reference_pages_are_filled(parts: None) -> None:
    from generated_parts import commands, fill

    from pathotune.methods import METHODS

    text = fill((DOCS / "commands.md").read_text(encoding="utf-8"))
    assert all(f"\n## {name}\n" in text for name, _ in commands())
    assert "| `--slide-mpp` |" in text and "| `--json` |" in text and "filled in when" not in text
    settings = fill((DOCS / "settings.md").read_text(encoding="utf-8"))
    assert all(f"\n## {name}\n" in settings for name in METHODS) and "`tvp_tokens`" in settings
    assert "`MissingPixelSize`" in fill((DOCS / "errors.md").read_text(encoding="utf-8"))


def test_every_page_is_reached_from_the_contents(parts: None, tmp_path: Path) -> None:
    from generated_parts import reached

    text = (DOCS / "index.md").read_text(encoding="utf-8")
    lines = reached(text, DOCS).splitlines()
    for page in DOCS.glob("*.md"):
        assert page.stem == "index" or lines.count(page.stem) == 1, page.name
    assert lines.count("notebooks/from-python") == 1 and ":caption: How to" in lines
    (tmp_path / "new.md").write_text("# New", encoding="utf-8")
    assert ":caption: Further\n:hidden:\n\nnew\n" in reached(text, tmp_path), "a page nobody has linked yet"


def test_figures_are_those_the_script_draws(parts: None) -> None:
    from system_figures import FIGURES

    for name, draw in FIGURES.items():
        path = DOCS / "pictures" / f"system-{name}.svg"
        assert path.read_text(encoding="utf-8") == draw().text(), (
            f"python docs/system_figures.py draws {path.name} anew"
        )


def test_notebooks_are_kept_without_results() -> None:
    notebooks = sorted((DOCS / "notebooks").glob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            assert not cell.get("outputs") and cell.get("execution_count") is None, path.name


def test_the_readme_begins_with_what_it_is_a_picture_and_two_commands() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    before, picture, after = text.partition("\n![")
    assert picture and len([line for line in before.splitlines() if line and not line.startswith("#")]) == 3
    commands = re.findall(r"^    (.+)$", after.split("\n## ")[1], flags=re.MULTILINE)
    assert len(commands) == 2
