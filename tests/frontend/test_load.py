"""What loading a library costs: only what runs it is imported, and that takes little time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import planish as pl
from tests.frontend.small import small_model

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None and shutil.which("ld") is None,
    reason="no linker: neither cc nor ld",
)
# Compilers and what they need, and what takes long to import for the little that is used of it
HEAVY = {
    "llvmlite", "networkx", "ml_dtypes", "platformdirs", "numpy.ma", "subprocess", "tempfile",
    "secrets", "importlib.metadata", "planish.ir.loops", "planish.ir.node", "planish.ir.graph",
    "planish.ir.ops", "planish.passes", "planish.runtime.build", "planish.runtime.codegen",
    "planish.runtime.elf", "planish.runtime.linker", "planish.runtime.lower",
    "planish.runtime.llvm", "planish.runtime.plan", "planish.frontend.trace",
    "planish.frontend.tokenizers", "planish.frontend.models",
}  # fmt: skip

RUN = """
import json, sys, time
start = time.process_time()
import numpy
numpy_alone, start = time.process_time() - start, time.process_time()
import planish as pl
found = pl.load(sys.argv[1])
tokens = found.generate([1, 2], max_new_tokens=3, temperature=0).tolist()
print(json.dumps([sorted(sys.modules), tokens, numpy_alone, time.process_time() - start]))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("load") / "x.so"
    pl.Generator(small_model(), threads=1).save(path)
    return path


def loaded(library: Path) -> tuple[list[str], list[int], float, float]:
    """Modules of a process that wrote some tokens; the tokens; seconds of NumPy's and our part."""
    env = {**os.environ, "PYTHONPYCACHEPREFIX": str(library.parent), "PLANISH_THREADS": "1"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # bytecode is there from the second time on
    command = [sys.executable, "-c", RUN, str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    modules, tokens, others, ours = json.loads(done.stdout)
    return modules, tokens, others, ours


def test_nothing_is_imported_that_running_does_not_need(library: Path) -> None:
    modules, tokens, *_ = loaded(library)
    assert tokens == small_model().generate([1, 2], 3, temperature=0).tolist()
    assert not HEAVY & set(modules)


def test_it_takes_less_time_than_to_import_numpy(library: Path) -> None:
    """Of the processor, by the best of several: about half as much, on slow and fast machines."""
    loaded(library)
    times = [loaded(library)[2:] for _ in range(5)]
    assert min(ours for _, ours in times) < min(others for others, _ in times)
