"""How the suite is shared out: one thread a process, the tests of one file in one process, the longest files first."""

import os
import secrets
from pathlib import Path

import pytest

# Two contended threads run many times slower than one on a small machine.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
# Of the long tests (tests/soak/conftest.py); drawn here, before other processes begin, which take it over.
os.environ["SOAK_SEED"] = os.environ.get("SOAK_SEED") or str(secrets.randbelow(2**31))

# Files of more than three seconds, longest first. They begin first, so that none is left alone at the end; `make quick`
# leaves them out. One Ray at a time: test_ray has ended when test_ray_alone begins.
SLOW = """
    extract/test_ray extract/test_videoprism_attention extract/test_videoprism train/test_together
    extract/minigpt/test_generation extract/test_commands extract/test_sharing extract/test_decode_processes
    extract/test_pipeline_benchmarks train/test_hostile_runs extract/test_bad_inputs extract/test_ray_alone
    train/test_kills extract/test_miniature extract/captioners/test_hub train/test_report train/test_cli
    shared/test_cache extract/captioners/test_contract extract/test_reuse extract/test_resume
    extract/captioners/test_server extract/test_recaption extract/minigpt/test_vision extract/test_shards
    extract/test_processes extract/minigpt/test_captioner extract/test_systemic extract/test_memory
    train/test_protocols extract/minigpt/test_checkpoint extract/test_export extract/test_verify_commands
    train/test_loop extract/minigpt/test_llm extract/test_pipeline extract/test_parts shared/test_cache_verify
    train/test_changes train/test_ablate test_presets extract/test_cache_places extract/test_clip
    train/test_augment extract/test_demo test_imports test_train_speed extract/test_reuse_benchmark
    extract/test_import_hostile extract/test_video extract/test_loading extract/test_import train/test_audit
    extract/test_remote_videos extract/test_import_processes test_wheel extract/test_fuzz_video
    extract/test_hostile_video train/test_pitfalls shared/test_cache_index shared/test_scale_benchmark
    train/test_crossval extract/test_plan_command shared/test_windows train/test_heads test_interrupts
    extract/test_retrying extract/test_plan extract/test_recordings train/test_postprocess train/test_folds
    extract/test_shown extract/test_claims extract/test_inflight
""".split()  # noqa: SIM905
TESTS = Path(__file__).parent
ORDER = {TESTS / f"{name}.py": place for place, name in enumerate(SLOW)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ORDER.get(item.path, len(ORDER)))  # in a file the order stays
    for item in items:
        if item.path in ORDER:
            item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The seed of the long tests, and what they have to say, from whichever process they ran in."""
    reports = [report for state in ("passed", "failed") for report in terminalreporter.getreports(state)]
    notes = [line for report in reports for name, line in report.user_properties if name == "soak"]
    if notes or any("tests/soak" in report.nodeid for report in terminalreporter.getreports("failed")):
        terminalreporter.section(f"soak, repeat with SOAK_SEED={os.environ['SOAK_SEED']} make soak")
        for line in notes:
            terminalreporter.write_line(line)
