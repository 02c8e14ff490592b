"""Documents people write, with odd content: regions, jobs, tasks, tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pathotune.datasets.cohort import read_cohort
from pathotune.datasets.tiles import read_tile_table
from pathotune.execution.job import Job, run_job
from pathotune.inference.inputs import collect_slides
from pathotune.regions import read_regions, write_regions
from pathotune.tasks import load_task
from tests.fuzz.conftest import bounded, documents, scalars, sentence

numbers = st.one_of(st.integers(-10, 300), st.floats(), scalars)
rings = st.lists(st.lists(numbers, min_size=0, max_size=3), max_size=6)
geometry = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["Polygon", "MultiPolygon", "Point", "MultiPoint", "LineString", "Circle", "", None]),
        "coordinates": st.one_of(
            st.lists(rings, max_size=2), st.lists(st.lists(rings, max_size=2), max_size=2), documents
        ),
    }
)
feature = st.fixed_dictionaries(
    {"type": st.just("Feature"), "geometry": geometry | documents},
    optional={
        "properties": st.fixed_dictionaries(
            {}, optional={"classification": documents, "color": documents, "name": documents, "measurements": documents}
        )
        | documents,
        "id": documents,
    },
)
collection = st.fixed_dictionaries({"type": st.just("FeatureCollection"), "features": st.lists(feature, max_size=3)})


def test_geojson(watched: Any) -> None:
    path = watched() / "regions.geojson"

    @bounded
    @given(st.one_of(collection, feature, st.lists(feature, max_size=2), documents))
    def reads_or_says(document: Any) -> None:
        path.write_text(json.dumps(document))
        with sentence():
            regions = read_regions(path)
            write_regions(regions, watched() / "again.geojson")
            json.loads((watched() / "again.geojson").read_text())

    reads_or_says()


@pytest.mark.parametrize("suffix", [".geojson", ".json", ".xml"])
def test_regions_that_are_no_text(watched: Any, suffix: str) -> None:
    path = watched() / f"regions{suffix}"

    @bounded
    @given(st.binary(max_size=80) | st.text(max_size=60).map(str.encode))
    def says(data: bytes) -> None:
        path.write_bytes(data)
        with sentence():
            read_regions(path)

    says()


ARGUMENTS = (
    "slide",
    "tuning",
    "out",
    "sources",
    "tiles",
    "method",
    "config",
    "training",
    "box_px0",
    "backbone",
    "cohort",
)


def test_jobs(watched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(watched())
    path = watched() / "job.yaml"
    commands = st.sampled_from(["predict", "tune", "evaluate", "probe", "", "rm", None])
    jobs = st.fixed_dictionaries(
        {"command": commands},
        optional={"arguments": st.dictionaries(st.sampled_from(ARGUMENTS), documents, max_size=4)},
    )

    @bounded
    @given(st.one_of(jobs, documents))
    def runs_or_says(document: Any) -> None:
        path.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
        with sentence():
            for _ in run_job(Job.from_yaml(path)):
                break

    runs_or_says()


def test_yaml_that_is_none(watched: Any) -> None:
    job, task = watched() / "job.yaml", watched() / "task.yaml"

    @bounded
    @given(
        st.text(max_size=80).map(str.encode) | st.binary(max_size=40) | documents.map(yaml.safe_dump).map(str.encode)
    )
    def says(data: bytes) -> None:
        for path, read in ((job, Job.from_yaml), (task, load_task)):
            path.write_bytes(data)
            with sentence():
                read(path)

    says()


COLUMNS = ("slide", "path", "label", "patient", "split", "mpp", "x_px0", "y_px0", "width_px0", "time", "event", "fold")


@pytest.mark.parametrize("reader", ["tiles", "cohort", "slides"])
def test_tables(watched: Any, reader: str) -> None:
    path: Path = watched() / "table.csv"
    (watched() / "a.svs").write_bytes(b"II*\x00")
    cells = st.one_of(
        st.sampled_from(
            ["a.svs", "", "1", "0.5", "nan", "-1", "train", "test", '"', "../../witness", "tumour", "1e400"]
        ),
        st.text(max_size=6),
    )
    rows = st.lists(st.lists(cells, max_size=6), max_size=5)

    @bounded
    @given(st.lists(st.sampled_from(COLUMNS) | st.text(max_size=4), max_size=6), rows, st.sampled_from(",;\t"))
    def reads_or_says(header: list[str], rows: list[list[str]], comma: str) -> None:
        lines = [comma.join(row) for row in [header, *rows]]
        path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
        with sentence():
            if reader == "tiles":
                read_tile_table(path)
            elif reader == "cohort":
                read_cohort(path)
            else:
                collect_slides([], table=path)

    reads_or_says()


def test_tables_that_are_no_text(watched: Any) -> None:
    path = watched() / "table.csv"

    @bounded
    @given(st.binary(max_size=120))
    def says(data: bytes) -> None:
        path.write_bytes(data)
        for read in (read_tile_table, read_cohort, lambda table: collect_slides([], table=table)):
            with sentence():
                read(path)

    says()
