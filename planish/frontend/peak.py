"""The most memory that generating with a model takes, in a process of its own.

    python -m planish.frontend.peak MODEL PROMPT TOKENS [THREADS]

Prints JSON: `before` is the resident set once all is imported, `peak` the largest that it ever was;
null where the system does not tell. `peak_of` starts such a process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from planish.frontend.generate import generate
from planish.frontend.pretrained import load_model
from planish.ir.errors import DataError

STATUS = Path("/proc/self/status")


def resident(field: str) -> int | None:
    """Bytes of VmRSS (now) or VmHWM (the most ever) of this process.

    getrusage has the most, too, but of the process that started this one.
    """
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(found[0]) << 10 if found else None


def peak_of(model: Path, prompt: int, tokens: int, threads: int) -> dict[str, Any]:
    """What the process prints."""
    command = [sys.executable, "-m", "planish.frontend.peak", str(model), str(prompt), str(tokens)]
    done = subprocess.run([*command, str(threads)], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise DataError(f"measuring the memory of {model} failed: {last}")
    return json.loads(done.stdout)


def main() -> None:
    """Generate, and print."""
    path, prompt, tokens, threads = sys.argv[1], *map(int, sys.argv[2:5])
    before = resident("VmRSS")
    model, _ = load_model(path)
    ids = np.zeros(prompt, np.int32)
    generate(model, ids, tokens, temperature=0.0, threads=threads)
    print(json.dumps({"before": before, "peak": resident("VmHWM")}))


if __name__ == "__main__":
    main()
