"""One contestant in a process of its own: makes a workload ready, then runs it on request.

    python contestant.py NAME WORKLOAD DTYPE CONFIG THREADS

Lines of JSON: the first one out is {"ready": seconds, "load": seconds, "output": [...], "version":
text}, or {"skip": reason}; each line in is a number of seconds, answered by {"times": [...]}, the
time of each run in it. `ready` is compilation and the first call; `load` is all before it: imports,
and weights in the form in which the peer keeps a model.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time

import numpy as np
from peers.case import Case, Run, Unsupported
from workloads import CHECKED_STEPS, config

# name -> the module of `peers` and its function: (Case, variant) -> Prepare; the variant
CONTESTANTS = {
    "planish": ("ours", ""),
    "torch": ("torch_eager", ""),
    "torch.compile": ("torch_compiled", "default"),
    "torch.compile-max": ("torch_compiled", "max"),
    "zentorch": ("torch_compiled", "zentorch"),
    "onnxruntime": ("ort", ""),
    "onnxruntime-weights": ("ort", "weights"),
    "jax": ("jax_gpt", ""),
    "openvino": ("ov", ""),
    "llama.cpp": ("llama", ""),
}
OURS = "planish"


def once(run: Run) -> tuple[float, object]:
    """The time of one run and its output; a run may time the part that counts itself."""
    start = time.perf_counter()
    output = run()
    took = time.perf_counter() - start
    if isinstance(output, tuple) and len(output) == 2 and isinstance(output[0], float):
        took, output = output
    return took, output


def flat(output: object) -> list[float]:
    """An output as a list of numbers."""
    if isinstance(output, tuple):
        (output,) = output
    return np.asarray(output, np.float64).ravel().tolist()


def begin(name: str, case: Case) -> tuple[Run | None, dict]:
    """What to run, and the first line of the answer."""
    start = time.perf_counter()
    module, variant = CONTESTANTS[name]
    try:
        peer = importlib.import_module(f"peers.{module}")
        prepare = peer.contestant(case, variant)
    except ModuleNotFoundError as error:
        return None, {"skip": f"no package {error.name} here"}
    except Unsupported as reason:
        return None, {"skip": str(reason)}
    loaded = time.perf_counter()
    run = prepare()
    output = flat(once(run)[1])
    done = time.perf_counter()
    if case.workload == "train":  # each run is one step, and gives its loss
        output = [*output, *(x for _ in range(CHECKED_STEPS - 1) for x in flat(once(run)[1]))]
    answer = {"ready": done - loaded, "load": loaded - start, "output": output}
    return run, {**answer, "version": peer.version()}


def main() -> None:
    """Serve turns until standard input ends."""
    name, workload, dtype, model, threads = sys.argv[1:6]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    if hasattr(os, "sched_setaffinity"):  # libraries that count cores count these
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    run, answer = begin(name, Case(workload, dtype, config(model), int(threads)))
    print(json.dumps(answer), file=out, flush=True)
    if run is None:
        return
    for line in sys.stdin:
        until = time.perf_counter() + float(line)
        times = []
        while time.perf_counter() < until or not times:
            times.append(once(run)[0])
        print(json.dumps({"times": times}), file=out, flush=True)


if __name__ == "__main__":
    main()
