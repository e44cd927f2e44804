"""Fixtures and markers that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the golden cases."""
    parser.addoption(
        "--bless", action="store_true", help="rewrite golden cases that differ in text only"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    config.addinivalue_line(
        "markers", "isa: compares instruction sets; skipped where one is absent"
    )
    config.addinivalue_line("markers", "slow: takes more than a few seconds")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of corpora and pretrained models: PLANISH_DATA, or ../shared/data."""
    named = os.environ.get("PLANISH_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no data: {folder} is not a folder; set PLANISH_DATA to one")
    return folder
