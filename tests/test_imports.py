"""The house rules of imports: extract -> shared <- train, layers inside a stage, heavy libraries in their place."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
STAGES = ("extract", "train", "shared")

# From top to bottom. A module imports only from layers below its own, never from its own; "a.*" is a whole package.
LAYERS: dict[str, list[set[str]]] = {
    "extract": [
        {"extract.__main__", "extract.miniature.make", "extract.miniature.check"},
        {"extract.miniature.train_minigpt"},
        {"extract.miniature.train_clip", "extract.miniature.train_videoprism"},
        {
            "extract.miniature.optimize",
            "extract.miniature.dataset",
            "extract.miniature.keeping",
            "extract.miniature.videoprism_torch",
        },
        {"extract.interchange.cli"},
        {
            "extract.commands.captions",
            "extract.commands.doctor",
            "extract.commands.index",
            "extract.interchange.commands",
            "extract.commands.plan",
            "extract.commands.verify",
            "extract.commands.options",
        },
        {"extract.commands.run", "extract.commands.status", "extract.commands.demo"},
        {"extract.commands.parts"},
        {"extract.commands"},
        {"extract.commands.choose_engine"},
        {"extract.cluster.engine"},
        {"extract.cluster.deal"},
        {"extract.cluster.members"},
        {"extract.cluster.actor", "extract.cluster.connection"},
        {"extract.cluster.decode", "extract.cluster.doubts", "extract.engines"},
        {"extract.cluster"},
        {"extract.show.plan", "extract.show.summary", "extract.show.status"},
        {"extract.show.progress", "extract.demo", "extract.show.dataset", "extract.inflight"},
        {"extract.show"},
        {"extract.estimate"},
        {"extract.calibrate"},
        {"extract.cost", "extract.shards"},
        {"extract.dataset_doctor"},
        {
            "extract.interchange.export_hdf5",
            "extract.interchange.export_parquet",
            "extract.interchange.import_archive",
            "extract.interchange.import_external",
        },
        {
            "extract.interchange.archive_reading",
            "extract.interchange.external_times",
            "extract.interchange.selection",
            "extract.interchange.writing",
        },
        {"extract.interchange.external_facts"},
        {"extract.interchange.external_files", "extract.interchange.video_facts", "extract.interchange.whole_output"},
        {"extract.interchange.hdf5_file"},
        {"extract.interchange.hdf5_child"},
        {"extract.interchange.hdf5_reading"},
        {"extract.interchange.hdf5_layout"},
        {"extract.interchange"},
        {"extract.pipeline", "extract.recaption"},
        {"extract.sharing", "extract.loading", "extract.repair"},
        {"extract.jobs"},
        {"extract.demo_story", "extract.caption_files", "extract.systemic", "extract.retrying"},
        {"extract.assemble"},
        {"extract.decode.ahead", "extract.plan"},
        {"extract.decode.decoders", "extract.decode.fetching"},
        {"extract.decode.child", "extract.decode.process"},
        {"extract.decode.one_video", "extract.decode.wire"},
        {"extract.decode.events", "extract.decode.preparing", "extract.memory"},
        {"extract.decode.sampling"},
        {"extract.decode"},
        {"extract.child_process"},
        {"extract.encoders", "extract.encoders.untrained"},
        {"extract.encoders.text", "extract.encoders.clip_sizes"},
        {"extract.encoders.caption_tokens"},
        {"extract.encoders.captioners"},
        {"extract.encoders.captioners.hub", "extract.encoders.minigpt.captioner", "extract.encoders.minigpt.doctor"},
        {"extract.encoders.minigpt.tiny", "extract.encoders.minigpt.vision"},
        {"extract.encoders.minigpt.generation", "extract.encoders.minigpt.remote"},
        {"extract.encoders.minigpt.files", "extract.encoders.minigpt.llm"},
        {
            "extract.encoders.minigpt.checkpoint",
            "extract.encoders.minigpt.prompt",
            "extract.encoders.minigpt.decoding",
        },
        {"extract.encoders.minigpt.memory"},
        {"extract.encoders.minigpt.variants"},
        {"extract.encoders.minigpt"},
        {
            "extract.encoders.clip",
            "extract.encoders.videoprism",
            "extract.encoders.captioners.hub_files",
            "extract.encoders.captioners.offline",
            "extract.encoders.captioners.server",
        },
        {
            "extract.encoders.captioners.contract",
            "extract.encoders.captioners.endpoint",
            "extract.encoders.captioners.quality",
        },
        {"extract.encoders.videoprism_model"},
        {
            "extract.encoders.videoprism_attention",
            "extract.encoders.videoprism_checkpoint",
            "extract.encoders.contract",
            "extract.encoders.devices",
            "extract.encoders.digests",
            "extract.encoders.parts",
            "extract.encoders.quiet",
        },
        {"extract.encoders.packaged"},
        {"extract.encoders.revisions"},
        {"extract.video"},
        {"extract.video.reading"},
        {"extract.video.converting", "extract.video.folder", "extract.video.promises"},
        {"extract.video.containers", "extract.video.showing", "extract.video.sources"},
        {"extract.video.types"},
        {"extract.config", "extract.preparation", "extract.decode.turns"},
        {"extract.miniature.scenes", "extract.miniature.sentences"},
        {"extract.miniature.world"},
        {"extract.miniature"},
        {"extract"},
    ],
    "train": [
        {"train.__main__"},
        {"train.commands.study_cli"},
        {"train.commands.options"},
        {"train.commands.runs", "train.commands.study", "train.commands.submit"},
        {"train.commands.parts"},
        {"train.report", "train.inference", "train.changes", "train.mending"},
        {"train.show.study"},
        {"train.show.training", "train.submission.check", "train.summary"},
        {"train.audit", "train.ablate"},
        {"train.crossval"},
        {"train.fit.train_folds"},
        {"train.runs"},
        {"train.fit.loop", "train.fit.together", "train.fit.way"},
        {"train.fit.fold_stack"},
        {"train.fit.fitting"},
        {"train.fit.objective", "train.checkpoints"},
        {"train.submission.dvd"},
        {"train.postprocess", "train.oracle", "train.submission.files"},
        {"train.evaluate", "train.resident"},
        {"train.data"},
        {"train.tracks", "train.cautions"},
        {"train.labels", "train.bootstrap", "train.priors", "train.spans"},
        {"train.fit.augment", "train.fit.autoencode"},
        {"train.metrics", "train.folds", "train.losses", "train.config", "train.run_checks"},
        {"train.heads"},
        {
            "train.heads.cross_gru",
            "train.heads.cross_gru_literal",
            "train.heads.concat",
            "train.heads.mean_pool",
            "train.heads.pairs",
            "train.heads.single",
            "train.heads.standardize",
        },
        {"train.heads.layers"},
        {"train.fit.noise", "train.fit.adamw", "train.memory", "train.files"},
        {"train.tasks"},
        {"train.commands", "train.fit", "train.show", "train.submission"},
        {"train"},
    ],
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
    "av": ("extract.video.reading", "extract.video.converting", "extract.demo"),
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


@pytest.mark.parametrize("stage", LAYERS)
def test_imports_inside_a_stage_go_down(stage: str) -> None:
    level = {name: height for height, layer in enumerate(reversed(LAYERS[stage])) for name in layer}
    unplaced = [name for name in modules(stage) if name not in level]
    assert unplaced == [], "give every module its layer"
    wrong = [
        f"{name} imports {found}"
        for name in modules(stage)
        for found in IMPORTS[name]
        if top(found) == stage and level[found] >= level[name]
    ]
    assert wrong == []


def test_every_layer_exists() -> None:
    placed = {name for layers in LAYERS.values() for layer in layers for name in layer}
    assert sorted(placed - ALL) == []


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
            ["extract.pipeline", "extract.commands.run", "extract.show.progress", "extract.show.status"],
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
