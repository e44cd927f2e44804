"""One small function at every stage, from Python to machine code: what the README shows.

python examples/stages.py [--rows 1024]
"""

import argparse
import timeit

import numpy as np

import planish as pl
import planish.numpy as pnp
from planish.ir.loop_text import kernel_text

TARGET = "x86-64-v3"  # AVX2; named, so that kernel and LLVM IR look the same on every machine


def norm(x, w):
    """Rows of x scaled to a root mean square of 1, then by w."""
    mean = (x * x).mean(axis=-1, keepdims=True)
    return x * pnp.rsqrt(mean + 1e-5) * w


def stages() -> dict[str, str]:
    """The name of each stage and its text."""
    graph = pl.trace(norm, pl.spec(("B", 512)), pl.spec((512,)))
    program = pl.compile(graph, target=TARGET)
    return {
        "traced": str(graph),
        "fused": str(pl.PIPELINES["O2"].run(graph)),
        "loops": "\n".join(kernel_text(kernel) for kernel in program.kernels),
        "llvm": inner_loop(program.llvm_ir),
    }


def inner_loop(llvm_ir: str, lines: int = 10) -> str:
    """The beginning of the last loop of the first kernel in a module."""
    kernel = llvm_ir.split("define void @k", 1)[1].split("\n}", 1)[0]
    block = "loop" + kernel.rsplit("\n\nloop", 1)[1]
    return "\n".join(line.split("  ;")[0].rstrip() for line in block.splitlines()[:lines])


def timing(rows: int) -> str:
    """The time of a call, natively and with the interpreter that says what is right."""
    x, w = np.random.default_rng(0).standard_normal((rows, 512), np.float32), np.ones(512, "f4")
    program = pl.compile(norm, x, w)
    error = np.abs(program(x, w) - pl.interpret(norm, x, w, dtype="f64")).max()
    native = min(timeit.repeat(lambda: program(x, w), repeat=50, number=1))
    interpreted = min(timeit.repeat(lambda: pl.interpret(norm, x, w), repeat=20, number=1))
    told = f"{rows} rows: {1e6 * native:.0f} us native on {program.threads} threads"
    return f"{told}, {1e6 * interpreted:.0f} us interpreted; largest error {error:.0e}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1024)
    options = parser.parse_args()
    for name, text in stages().items():
        print(f"--- {name}\n{text}\n")
    print(timing(options.rows))
