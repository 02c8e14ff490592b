"""Task cards: those that come with it, a person's own, and tasks made from what was drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import shapely
from typer.testing import CliRunner

from pathotune import tasks
from pathotune.cli import app
from pathotune.errors import FileMissing, NoTiles, TableUnreadable, UnknownName
from pathotune.regions import Region
from pathotune.slides import synthetic
from pathotune.tasks import class_color, colour_blind_palette, load_task, task_from_dict, task_from_regions, task_names

BOX = shapely.box(0, 0, 1, 1)


@pytest.mark.parametrize("name", task_names())
def test_every_card_is_complete(name: str) -> None:
    task = load_task(name)
    assert task.name == name and task.title and task.level == "tile"
    assert len(task.classes) > 1 and all(one.sentence.endswith(".") for one in task.classes)
    assert len(task.sentences) == 2 and task.mpp
    assert len({one.color for one in task.classes}) == len(task.classes), "colours tell classes apart"
    assert task_from_dict(json.loads(json.dumps(task.to_dict()))) == task
    assert load_task(task) is task


def test_the_generated_slide_has_its_card() -> None:
    task = load_task("generated-tissue")
    drawn = {
        one.name: one.color for one in synthetic.CLASSES if one.name != "Background" and not one.name.endswith("*")
    }
    assert {one.name: one.color for one in task.classes} == drawn


def test_a_card_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nclasses: [Tumor, {name: Grün, color: '#00ff80'}]\nsentences: ['Tell a from b.']\n", "utf-8"
    )
    task = load_task(path)
    assert task.class_names == ("Tumor", "Grün") and task.title == "mine"
    assert task.classes[0].color == (200, 0, 0) and task.classes[1].color == (0, 255, 128)
    assert (task.level, task.objective, task.stain, task.mpp) == ("tile", "classification", "H&E", None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("just text", "no task card"),
        ("- a\n- b", "no task card"),
        ("name: x", "lacks 'classes'"),
        ("classes: [a, b]", "lacks 'name'"),
        ("name: x\nclases: [a]", "'clases'.*'classes'"),
        ("name: x\nclasses: a", "'classes' must be a list"),
        ("name: x\nclasses: [{name: a, colour: [1, 2, 3]}]", "class 1 .*'colour'.*'color'"),
        ("name: x\nclasses: [a, {color: [1, 2, 3]}]", "class 2 needs a name"),
        ("name: x\nclasses: [a, Region*]", "class 2 needs a name that does not end"),
        ("name: x\nclasses: [a, a]", "already a class 'a'"),
        ("name: x\nclasses: [{name: a, color: red}]", "class 1: the color 'red'"),
        ("name: x\nclasses: [{name: a, color: [1, 2, 300]}]", "from 0 to 255"),
        ("name: x\nclasses: [a]\nlevel: cell", "'level' is 'cell'.*tile, slide, patient"),
        ("name: x\nclasses: [a]\nobjective: guess", "classification"),
        ("name: x\nclasses: [a]\nmpp: wide", "'mpp' is 'wide'"),
        ("name: x\nclasses: [a]\nmpp: 0", "'mpp' is 0"),
        ("name: x\nclasses: [a]\nsentences: one", "'sentences' must be a list"),
        ("name: [1]\nclasses: [a]", "'name' must be a text"),
        ("name: x\n  bad: [", "line 2 is no YAML"),
        ("name: !!python/object/apply:os.system ['true']", "no YAML"),
    ],
)
def test_bad_cards_name_the_key(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(TableUnreadable, match=says) as caught:
        load_task(path)
    assert "mine.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_names_and_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'he-tissue'"):
        load_task("he-tisue")
    with pytest.raises(UnknownName):
        load_task("../tasks/he-tissue")
    with pytest.raises(FileMissing):
        load_task(tmp_path / "none.yaml")


def test_a_task_from_regions() -> None:
    regions = [Region(BOX, "b"), Region(BOX, "A", (1, 2, 3)), Region(BOX, "A"), Region(BOX, "Ignore*"), Region(BOX)]
    task = task_from_regions(regions, organ="liver")
    assert [(one.name, one.color) for one in task.classes] == [("A", (1, 2, 3)), ("b", class_color("b", 1))]
    assert "A and b" in task.sentences[0] and "liver" in task.sentences[0] and "H&E" in task.sentences[1]
    assert task == task_from_regions(reversed(regions), organ="liver"), "the order of files does not matter"
    with pytest.raises(NoTiles, match="class to learn"):
        task_from_regions(regions[3:])
    with pytest.raises(NoTiles, match="no regions"):
        task_from_regions(iter([]))


def test_palettes() -> None:
    assert tasks.PALETTE["Tumor"] == (200, 0, 0) and class_color("tumor") == (200, 0, 0)
    for count in (0, 1, 7, 8, 9, 20):
        colors = colour_blind_palette(count)
        assert len(colors) == len(set(colors)) == count
        assert all(0 <= value <= 255 for color in colors for value in color)


def test_the_command() -> None:
    runner = CliRunner()
    shown = runner.invoke(app, ["tasks", "--json"])
    assert [card["name"] for card in json.loads(shown.stdout)] == list(task_names())
    one = runner.invoke(app, ["tasks", "he-tissue"])
    assert one.exit_code == 0 and one.stdout == "" and "Necrosis" in one.stderr
    listed = runner.invoke(app, ["tasks"])
    assert all(name in listed.stderr for name in task_names())
    assert runner.invoke(app, ["tasks", "-q"]).stderr == ""
