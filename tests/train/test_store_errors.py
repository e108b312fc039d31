"""A cache that cannot be reached is one line and status 2, as everything that a user can mend."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from train.__main__ import app


@pytest.mark.parametrize(
    ("dataset", "cache", "told"),
    [
        ("t.csv", "foo://x/c.zarr", "error: foo://x/c.zarr: Protocol not known: foo"),
        (
            "t.csv",
            "s3://AKIAX:abc/s3cr3t@bucket/c.zarr",
            "error: the URL of the cache (s3://...) has credentials in it",
        ),
        ("s3://AKIAX:abc/s3cr3t@bucket/v", "c.zarr", "error: the URL of the data set (s3://...) has credentials in it"),
    ],
)
def test_a_cache_that_cannot_be_reached(
    dataset: str, cache: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("path,label\na.mp4,1\n")
    result = CliRunner().invoke(app, ["cv", dataset, "--task", "violence", "--cache", cache])
    assert result.exit_code == 2, result.output
    assert told in result.output
    assert "s3cr3t" not in result.output
