"""Fixtures and markers that all tests share."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from planish.runtime.memo import Memo
from planish.runtime.target import Target

ROOT = Path(__file__).resolve().parent.parent

settings.register_profile("planish", deadline=None)  # a busy machine is no failure
settings.load_profile("planish")

if "PYTEST_XDIST_WORKER" not in os.environ:  # a new cache, which processes of this run share
    _CACHE = tempfile.TemporaryDirectory(prefix="planish-tests-")
    os.environ["PLANISH_CACHE"] = _CACHE.name


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the golden cases, and of what takes longer."""
    parser.addoption(
        "--bless", action="store_true", help="rewrite golden cases that differ in text only"
    )
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `isa("avx512f")` where the processor lacks that feature, or `slow`."""
    if item.get_closest_marker("slow") and not item.config.getoption("--slow"):
        pytest.skip("of the thorough set, which --slow runs, too")
    for mark in item.iter_markers("isa"):
        missing = [name for name in mark.args if not Target.host().has(name)]
        if missing:
            pytest.skip(f"this processor lacks {', '.join(missing)}")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of corpora and pretrained models: PLANISH_DATA, or ../shared/data."""
    named = os.environ.get("PLANISH_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no data: {folder} is not a folder; set PLANISH_DATA to one")
    return folder


@pytest.fixture
def uncached(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what compiling twice makes: it really does."""
    monkeypatch.setenv("PLANISH_CACHE", "off")
    for name in ("llvm.OBJECTS", "codegen.functions.FUNCTIONS"):
        monkeypatch.setattr(f"planish.runtime.{name}", Memo(0))
