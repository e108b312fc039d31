"""The house rules of imports: extract -> shared <- train, layers inside a stage, heavy libraries in their place."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
STAGES = ("extract", "train", "shared")

# Rooms (packages, and modules at the top of a stage), from top to bottom. A room imports only from rooms of lines below
# its own; the modules of a room may import each other, but not in a circle.
ROOMS: dict[str, list[str]] = {
    "extract": [
        "__main__",
        "interchange",
        "commands",
        "cluster show",
        "flow captions",
        "sharing",
        "jobs",
        "faults costs demo",
        "decode miniature",
        "encoders",
        "video watcher child_process preparation config",
    ],
    "train": [
        "__main__",
        "commands",
        "show",
        "experiments",
        "fit",
        "runs submission",
        "judging",
        "data",
        "heads config tasks",
    ],
    "shared": ["datasets", "cache manifest", "videos", "labels", "process", "names places recipe windows"],
}
# google_crc32c is zarr's own checksum; fsspec is what zarr reaches object stores with.
EVERYWHERE_IN_SHARED = {"numpy", "pandas", "zarr", "shared", "google_crc32c", "filelock", "fsspec"}
# Library -> the only modules that import it.
ONLY_IN = {
    "jax": "extract.encoders",
    "open_clip": ("extract.encoders", "extract.miniature"),
    "transformers": ("extract.encoders", "extract.miniature"),
    "ray": "extract.cluster",
    "openai": "extract.encoders.captioners.endpoint",
    "av": ("extract.video.reading", "extract.video.converting", "extract.demo.render"),
}


def modules(stage: str) -> list[str]:
    """Dotted names of all modules of a stage."""
    names = []
    for file in sorted((REPO / stage).rglob("*.py")):
        parts = file.relative_to(REPO).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def imports_of(name: str) -> Iterator[str]:
    """Full names of the modules that a module imports, also inside functions; not those only for type checkers."""
    file = REPO.joinpath(*name.split("."))
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    for node in walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            assert node.module is not None
            for alias in node.names:
                part = f"{node.module}.{alias.name}"
                yield part if part in ALL else node.module


def walk(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from walk(child)


READS_HDF5 = [f"extract.interchange.{n}" for n in ("archive_reading", "import_archive", "import_external")]
ALL = {name for stage in STAGES for name in modules(stage)}
IMPORTS = {name: sorted(set(imports_of(name))) for name in sorted(ALL)}


def top(name: str) -> str:
    return name.partition(".")[0]


def is_in(name: str, places: str | tuple[str, ...]) -> bool:
    return any(name == p or name.startswith(f"{p}.") for p in ([places] if isinstance(places, str) else places))


def test_the_stages_meet_only_in_shared() -> None:
    allowed = {"extract": {"extract", "shared"}, "train": {"train", "shared"}, "shared": {"shared"}}
    wrong = [
        f"{name} imports {found}"
        for name, imported in IMPORTS.items()
        for found in imported
        if top(found) in STAGES and top(found) not in allowed[top(name)]
    ]
    assert wrong == []


def test_shared_imports_little() -> None:
    allowed = EVERYWHERE_IN_SHARED | set(sys.stdlib_module_names)
    wrong = [f"{n}: {i}" for n, found in IMPORTS.items() if top(n) == "shared" for i in found if top(i) not in allowed]
    assert wrong == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_heavy_libraries_stay_in_their_place(library: str) -> None:
    users = [name for name, found in IMPORTS.items() if library in map(top, found)]
    assert [name for name in users if not is_in(name, ONLY_IN[library])] == []


def test_stage_two_never_sees_a_decoder_or_an_encoder() -> None:
    banned = {"jax", "open_clip", "transformers", "av", "torchvision"}
    assert [f"{n}: {i}" for n, f in IMPORTS.items() if top(n) == "train" for i in f if top(i) in banned] == []


def room(name: str) -> str:
    return name.split(".")[1]


@pytest.mark.parametrize("stage", ROOMS)
def test_imports_between_rooms_go_down(stage: str) -> None:
    level = {name: height for height, names in enumerate(reversed(ROOMS[stage])) for name in names.split()}
    inside = [name for name in modules(stage) if name != stage]
    assert {room(name) for name in inside} == level.keys(), "every room has its line, every line its room"
    wrong = [
        f"{name} imports {found}"
        for name in inside
        for found in IMPORTS[name]
        if top(found) == stage and room(found) != room(name) and level[room(found)] >= level[room(name)]
    ]
    assert wrong == []


def test_no_imports_in_a_circle() -> None:
    TopologicalSorter({name: ALL.intersection(found) for name, found in IMPORTS.items()}).prepare()


@pytest.mark.parametrize("stage", STAGES)
def test_few_files_lie_loose_at_the_top_of_a_stage(stage: str) -> None:
    assert len(list((REPO / stage).glob("*.py"))) <= 8


@pytest.mark.parametrize(
    "package", sorted(name for name in ALL if REPO.joinpath(*name.split("."), "__init__.py").is_file())
)
def test_every_room_says_what_it_is(package: str) -> None:
    assert ast.get_docstring(ast.parse(REPO.joinpath(*package.split("."), "__init__.py").read_text(encoding="utf-8")))


def walks() -> dict[str, list[str]]:
    """The walks through the code that CONTRIBUTING.md describes: title -> dotted names, in order."""
    text = (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
    sections = {part.partition("\n")[0]: part for part in text.split("\n## ")}
    return {
        title: [
            path.replace("/", ".") for path in re.findall(r"^\d+\. `([\w/]+)\.py`: \S", sections[title], re.MULTILINE)
        ]
        for title in ("A frame's way", "A label's way")
    }


@pytest.mark.parametrize("title", ["A frame's way", "A label's way"])
def test_the_walks_of_contributing_follow_the_imports(title: str) -> None:
    """The files of a walk hang together: following imports from the first leads to all others."""
    walk = walks()[title]
    assert len(walk) == 12
    assert set(walk) <= ALL
    # Through these a caller knows what it calls: contracts, and rooms whose opening hands out what is in them.
    fronts = {name for name in ALL if name.endswith(".contract") or (REPO / name.replace(".", "/")).is_dir()}
    reached = {walk[0]}
    for _ in walk:
        known = {*reached, *(c for name in reached for c in fronts.intersection(IMPORTS[name]))}
        reached |= {n for n in walk if any(n in IMPORTS[other] or other in IMPORTS[n] for other in known)}
    assert [name for name in walk if name not in reached] == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/mechanisms.md"])
def test_what_the_pages_name_is_there(page: str) -> None:
    text = (REPO / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:extract|train|shared|tests|docs|benchmarks)/[\w/.]*)`", text))
    assert named
    assert [path for path in sorted(named) if not (REPO / path).exists() and "NAME" not in path] == []


@pytest.mark.parametrize(
    ("names", "banned"),
    [
        (
            [n for n in sorted(ALL) if top(n) == "train"],
            {"jax", "open_clip", "transformers", "av", "torchvision", "extract"},
        ),
        (
            [n for n in sorted(ALL) if top(n) == "shared"],
            {"jax", "torch", "av", "PIL", "rich", "typer", "train", "extract"},
        ),
        (["extract", "extract.__main__"], {"jax", "torch", "av", "numpy", "zarr", "pandas"}),
        (
            ["extract.flow.pipeline", "extract.commands.run", "extract.show.progress", "extract.show.status"],
            {"jax", "torch", "open_clip", "transformers"},
        ),
        (["extract.decode.child"], {"jax", "torch", "torchvision", "zarr", "pandas", "rich", "typer"}),
        (["extract.interchange.hdf5_child"], {"jax", "torch", "av", "zarr", "pandas", "rich", "typer"}),
        (["extract.interchange.commands", *READS_HDF5], {"h5py"}),
    ],
    ids=["train", "shared", "command line", "pipeline", "decoder process", "HDF5 process", "import of HDF5"],
)
def test_what_is_really_loaded(names: list[str], banned: set[str]) -> None:
    """Also through libraries: a new process imports the modules and lists what came along."""
    script = f"import importlib, sys\nfor n in {names!r}: importlib.import_module(n)\nprint(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(banned & {top(name) for name in done.stdout.split()}) == []
