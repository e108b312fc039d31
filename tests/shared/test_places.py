"""Paths and URLs: what no URL may say, and what becomes of a store's errors."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from extract.faults.ledger import Failure, FailureLedger
from extract.sharing.locks import LocalClaims, open_claims
from shared.cache import CacheError, FeatureCache
from shared.datasets import cache_of, find_dataset
from shared.manifest import load_manifest
from shared.places import RemoteError, check_secrets, plain_place
from shared.videos.remote import RemoteRoot
from tests.shared.test_cache import RECIPES, SPEC, write_video

SECRETS = [
    "s3://AKIAX:abc/s3cr3t@bucket/v",
    "s3://AKIAX:s3cr3t/more/s3cr3t@bucket",
    "S3://AKIAX:abc/s3cr3t@bucket/v",
    "s3://s3cr3t@bucket/v",
    "s3://AKIAX:s3cr3t/bucket/v",
    "gs://name:abc/s3cr3t@bucket/v",
    "sftp://me:abc/s3cr3t@host/v",
    "simplecache::s3://AKIAX:abc/s3cr3t@bucket/v",
    "s3://bucket/v?X-Amz-Signature=s3cr3t&AWSAccessKeyId=AKIAX",
    "https://account.example/v?sig=s3cr3t",
]
HARMLESS = [
    "a@b:c/d?e=f",
    "file:///a:b/c@d?e=f",
    "s3://bucket/v@1/what?/a.mp4",
    "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/name/v",
    "abfs://container@account.dfs.core.windows.net/v",
    "sftp://host:22/v",
    "memory://c.zarr",
]


@pytest.mark.parametrize("url", SECRETS)
def test_secrets_are_refused_at_every_door_and_not_repeated(url: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path\na.mp4\n")
    doors: list[Callable[[], Any]] = [
        lambda: FeatureCache.open(url),
        lambda: FeatureCache.create(url, dataset="data", window=SPEC),
        lambda: RemoteRoot(url),
        lambda: load_manifest(url),
        lambda: load_manifest(tmp_path / "t.csv", url),
        lambda: cache_of(url),
        lambda: cache_of("clips", url),
        lambda: find_dataset(url),
    ]
    for door in doors:
        with pytest.raises(ValueError, match=r"has (credentials|a query, as signed links have,) in it") as caught:
            door()
        assert "s3cr3t" not in str(caught.value)
        assert "AKIAX" not in str(caught.value)


@pytest.mark.parametrize("url", HARMLESS)
def test_other_places_pass(url: str) -> None:
    check_secrets(url, "the cache")


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/", "gs://bucket", "s3://"])
def test_a_bucket_is_no_place_for_a_cache(url: str) -> None:
    for door in (FeatureCache.open, lambda u: FeatureCache.create(u, dataset="data", window=SPEC)):
        with pytest.raises(CacheError, match=r"is a bucket; give a place in it, such as (s3|gs)://bucket/c\.zarr"):
            door(url)


def test_a_file_url_is_the_path_behind_it(tmp_path: Path) -> None:
    for scheme in ("file", "local"):
        path = tmp_path / scheme / "deep" / "c.zarr"
        url = f"{scheme}://{path}"
        assert plain_place(url) == str(path)
        cache = FeatureCache.create(url, dataset="data", window=SPEC)
        write_video(cache, "a")
        again = FeatureCache.create(url, dataset="data", window=SPEC)
        assert again.has("a", "text", RECIPES["text"])
        assert again.url == FeatureCache.open(url).url == str(path)
        assert FeatureCache.open(path).verify("a") == []
        for number in range(2):
            FailureLedger(url).record(Failure(f"{number}", "p", "decode", "VideoError", "broken"))
        assert set(FailureLedger(str(path)).failures()) == {"0", "1"}
        first, second = open_claims(url), open_claims(str(path))
        assert isinstance(first, LocalClaims)
        assert first.take("a", ["x"])
        assert not second.take("a", ["x"])
        first.close()
        second.close()
        assert sorted(p.name for p in path.parent.iterdir()) == ["c.zarr", "c.zarr.index", "failures.jsonl"]


# ------------------------------------------------------------------ errors of a store


URL = "memory://place/c.zarr"
Hook = Callable[[str], Any]  # called with the path of what is asked for


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Hook]]:
    """A cache in memory; what a test puts into the list is called before every access."""
    hooks: list[Hook] = []

    def hooked(usual: Callable[..., Any]) -> Callable[..., Any]:
        def act(self: Any, path: str, *args: Any, **kwargs: Any) -> Any:
            for hook in hooks:
                hook(path)
            return usual(self, path, *args, **kwargs)

        return act

    for name in ("cat_file", "ls", "find", "info", "pipe_file", "rm"):
        monkeypatch.setattr(MemoryFileSystem, name, hooked(getattr(MemoryFileSystem, name)))
    MemoryFileSystem.clear_instance_cache()  # the methods of a file system are looked up when it is made
    write_video(FeatureCache.create(URL, dataset="data", window=SPEC), "a")
    yield hooks
    MemoryFileSystem.clear_instance_cache()
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]


class NoCredentialsError(Exception):
    """As a store's library has it: no ``OSError``."""


NoCredentialsError.__module__ = "botocore.exceptions"
ERRORS = [
    (PermissionError("Forbidden"), r"Forbidden \(PermissionError\)"),
    (NoCredentialsError("Unable to locate credentials"), r"Unable to .* \(NoCredentialsError of botocore\)"),
    (TimeoutError(), r"no answer \(TimeoutError\)"),
]


@pytest.mark.parametrize(("error", "words"), ERRORS)
def test_what_a_store_refuses_is_told_with_its_place(store: list[Hook], error: Exception, words: str) -> None:
    cache = FeatureCache.open(URL)
    writable = FeatureCache.create(URL, dataset="data", window=SPEC)

    def refuse(path: str) -> None:
        raise error

    store.append(refuse)
    acts: list[Callable[[], Any]] = [
        lambda: FeatureCache.open(URL),
        lambda: FeatureCache.create("memory://place/d.zarr", dataset="data", window=SPEC),
        cache.facts,
        cache.group_ids,
        lambda: cache.read("a", "image"),
        lambda: cache.verify("a"),
        lambda: writable.drop("a", ["image"]),
        lambda: writable.write_info("b", None),  # type: ignore[arg-type]
        lambda: FailureLedger(URL).failures(),
        lambda: open_claims(URL).take("a", ["x"]),
    ]
    for act in acts:
        with pytest.raises(RemoteError, match=rf"memory://place/.*{words}"):
            act()
    with pytest.raises(OSError, match=rf"cannot write the ledger of failures memory://place/failures.jsonl: .*{words}"):
        FailureLedger(URL).record(Failure("a", "p", "decode", "VideoError", "broken"))


def test_all_requests_have_ended_when_one_failed(store: list[Hook]) -> None:
    """What the end of the process would cut off ends in tracebacks of the store's library."""
    cache, ended = FeatureCache.open(URL), []

    def slow(path: str) -> None:
        if path.endswith("image/zarr.json"):
            raise PermissionError("Forbidden")
        time.sleep(0.1)
        ended.append(path)

    store.append(slow)
    with pytest.raises(RemoteError, match=r"image/zarr\.json: Forbidden"):
        cache.find("a", ["image", "text", "video"])
    assert len(ended) == 3


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("foo://x/c.zarr", "foo://x/c.zarr: Protocol not known: foo; expected a path, or a URL such as s3://"),
        ("S3://bucket/c.zarr", "S3://bucket/c.zarr: Protocol not known: S3; expected a path"),
        ("s3://bucket/c.zarr", r"s3://bucket/c.zarr: .*; pip install 'crossgru\[s3\]'"),
        ("gs://bucket/c.zarr", "gs://bucket/c.zarr: .*; pip install 'gcsfs'"),
    ],
)
def test_a_store_without_a_library(url: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for library, scheme in (("s3fs", "s3"), ("gcsfs", "gs")):
        monkeypatch.setitem(sys.modules, library, None)
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)
    for door in (FeatureCache.open, lambda u: FeatureCache.create(u, dataset="data", window=SPEC)):
        with pytest.raises(RemoteError, match=words):
            door(url)
