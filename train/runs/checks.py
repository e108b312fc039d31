"""Is a run folder what it claims to be? Its config.json holds what all do, its weights are those of its folds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from train.runs.files import RunError, file_sha256, read_json

# What every config.json holds, and as what.
CONFIG_TYPES: Mapping[str, type] = MappingProxyType(
    {
        **dict.fromkeys(("task", "dataset", "labels_sha256", "cache"), str),
        **dict.fromkeys(("window", "train", "dims", "fingerprints", "features_sha256", "folds"), dict),
        **dict.fromkeys(("recipes", "sources"), dict),
        **dict.fromkeys(("untrained", "notes", "videos"), list),
        "permuted": bool,
    }
)


def check_config(file: Path, config: Mapping[str, Any]) -> None:
    """Refuse a config.json of another form.

    Raises:
        RunError: names the key.
    """
    if absent := [key for key in CONFIG_TYPES if key not in config]:
        raise RunError(f"{file} is damaged: it lacks {', '.join(absent)}")
    for key, kind in CONFIG_TYPES.items():
        if not isinstance(config[key], kind):
            found = type(config[key]).__name__
            raise RunError(f"{file} is damaged: expected {key} to be a {kind.__name__}, found a {found}")
    _check_values(file, config)


def _check_values(file: Path, config: Mapping[str, Any]) -> None:
    """Refuse lists and tables that hold something else.

    Raises:
        RunError: names the key.
    """
    tables = {"sources": str, "fingerprints": str, "features_sha256": str, "folds": int, "recipes": dict, "dims": int}
    for key, kind in tables.items():
        if wrong := [k for k, v in config[key].items() if not isinstance(v, kind)]:
            raise RunError(
                f"{file} is damaged: expected {key} to hold {kind.__name__}s, found another for {wrong[0]!r}"
            )
    for key in ("untrained", "notes", "videos"):
        if not all(isinstance(value, str) for value in config[key]):
            raise RunError(f"{file} is damaged: expected {key} to hold texts")
    if missing := sorted(config["dims"].keys() ^ config["recipes"].keys()):
        raise RunError(f"{file} is damaged: dims and recipes differ in the streams {', '.join(missing)}")


def check_weights(file: Path) -> None:
    """Refuse weights that are not those which their fold's history names; one that names none is older.

    Raises:
        RunError: they differ, or the history is damaged.
    """
    history = file.with_suffix(".json")
    known = read_json(history).get("weights_sha256") if history.exists() else None
    if known is not None and known != file_sha256(file):
        raise RunError(f"checkpoint {file} is damaged: it is not what {history.name} beside it names; train it again")
