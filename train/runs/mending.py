"""A run that was cut anywhere, before it goes on: what is half written or damaged is dropped and done again.

Every file is written in one step, so a killed process leaves at most a part file. A machine that loses power, or a disk
that fails, may leave any file with any content; sha256 and the archive's own checksums tell.
"""

from __future__ import annotations

import os
from pathlib import Path

from shared.process.whole_file import PART
from train.runs.checks import check_weights
from train.runs.files import RunError, is_whole_archive, read_json
from train.runs.folder import Run


def mend_run(run: Run) -> list[str]:
    """Remove what cannot be trusted from a run and the runs inside of it; training makes it anew, the same.

    Returns:
        One line for each damaged file; part files, which every kill may leave, are not worth one.

    Raises:
        RunError: a folder in it is a link: files elsewhere would be written and removed.
    """
    _refuse_links(run.path)
    for part in run.path.rglob(f"*{PART}"):
        if not part.is_dir():
            part.unlink(missing_ok=True)
    told = []
    for folder in sorted(run.path.rglob("checkpoints")):
        told += [line for file in sorted(folder.glob("fold*.json")) for line in _mend_fold(file, run.path)]
        for state in sorted(folder.glob("fold*.state.pt")):
            if not is_whole_archive(state):
                state.unlink()
                told.append(f"{state.relative_to(run.path)} is cut off or damaged; its fold starts again")
    metrics = run.path / "metrics.json"
    if metrics.exists():
        try:
            read_json(metrics)
        except RunError:
            metrics.unlink()
            told.append("metrics.json is damaged; it is written again")
    return told


def _refuse_links(root: Path) -> None:
    for folder, names, _ in os.walk(root):
        for name in names:
            if (place := Path(folder, name)).is_symlink():
                raise RunError(
                    f"{place} is a link to another folder, and nothing of a run is written through links; copy the "
                    f"run with the folders themselves: cp -rL {root} NEW"
                )


def _mend_fold(history: Path, root: Path) -> list[str]:
    """Drop a trained fold whose history or weights are damaged."""
    weights = history.with_suffix(".safetensors")
    try:
        kept = read_json(history)
        if not isinstance(kept.get("best_epoch"), int) or not isinstance(kept.get("history"), list):
            raise RunError("it holds something else")
        if not weights.exists():
            raise RunError("its weights are not there")
        check_weights(weights)
    except RunError as error:
        history.unlink()
        return [f"{history.relative_to(root)}: {error}; the fold is trained again"]
    return []
