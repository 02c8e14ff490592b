"""A job as data."""

from __future__ import annotations

from pathlib import Path

import pytest

from pathotune.errors import FileMissing, TableUnreadable, UnknownName, UsageError
from pathotune.execution.job import Job, run_job


def test_a_job_survives_its_file(tmp_path: Path) -> None:
    job = Job("predict", {"slide": "ä b.svs", "out": "out", "box_px0": [0, 0, 10.5, 20], "resume": True})
    assert Job.from_yaml(job.to_yaml(tmp_path / "job.yaml")) == job
    assert Job.from_dict(job.to_dict()) == job


@pytest.mark.parametrize("text", ["- a\n- b\n", "arguments: {}\n", "command: [\n", "command: predict\narguments: 3\n"])
def test_what_is_no_job_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(TableUnreadable):
        Job.from_yaml(tmp_path / "job.yaml")
    with pytest.raises(FileMissing):
        Job.from_yaml(tmp_path / "none.yaml")


def test_unknown_and_incomplete_jobs() -> None:
    with pytest.raises(UnknownName, match="predict"):
        list(run_job(Job("pedict")))
    with pytest.raises(UsageError, match="slide"):
        list(run_job(Job("predict", {"out": "x"})))
