"""Contestants in processes of their own, which take turns while the machine is otherwise quiet."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from contestant import OURS
from workloads import Config

HERE = Path(__file__).resolve().parent
TURN = 0.3  # seconds that a contestant runs before the next one's turn
STOLEN, TICKS = 0.05, 0.02  # share of a turn that others may take, and what the clock cannot tell
ATTEMPTS = 5  # at a turn, until one is quiet
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")  # the last is XLA's


class Stopped(Exception):
    """A contestant's process ended."""


@dataclass
class Contestant:
    """A running process, what it said when it was ready, and the times of its turns."""

    name: str
    process: subprocess.Popen
    folder: tempfile.TemporaryDirectory
    skip: str = ""  # why it takes no part
    ready: float = 0.0
    load: float = 0.0
    version: str = ""
    output: list[float] = field(default_factory=list)
    error: float = 0.0
    quiet: list[float] = field(default_factory=list)
    noisy: list[float] = field(default_factory=list)  # of turns that never got quiet
    turns: int = 0
    noisy_turns: int = 0
    repeated: int = 0

    @property
    def times(self) -> list[float]:
        """Seconds of each run, of quiet turns if there were any."""
        return self.quiet or self.noisy

    def answer(self) -> dict:
        """The next line that the process prints."""
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise Stopped(f"stopped with exit code {self.process.wait()}")
        return json.loads(line)

    def run(self, seconds: float) -> list[float]:
        """Let it run for a while; the time of each run."""
        self.process.stdin.write(f"{seconds}\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return self.answer()["times"]

    def turn(self, seconds: float = TURN) -> None:
        """A turn; again where others took the processor, until the last attempt."""
        self.turns += 1
        best: tuple[float, list[float]] | None = None
        for _ in range(ATTEMPTS):
            before, own = busy(), used(self.process)
            began = time.perf_counter()
            times = self.run(seconds)
            wall = time.perf_counter() - began
            others = busy() - before - (used(self.process) - own)
            if others <= STOLEN * wall + TICKS:
                self.quiet += times
                return
            self.repeated += 1
            if best is None or others / wall < best[0]:
                best = others / wall, times
        self.repeated -= 1  # the last attempt was not followed by another
        self.noisy_turns += 1
        self.noisy += best[1] if best else []

    def stop(self) -> None:
        """End the process."""
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()
        self.folder.cleanup()


def start(name: str, python: str, workload: str, dtype: str, c: Config, threads: int) -> Contestant:
    """Start a contestant and wait until it has run once; `skip` says if it cannot."""
    folder = tempfile.TemporaryDirectory(prefix="benchmark-")
    command = [python, str(HERE / "contestant.py"), name, workload, dtype, c.text(), str(threads)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment(name, threads, folder.name), stderr=errors(folder.name),
    )  # fmt: skip
    contestant = Contestant(name, process, folder)
    try:
        first = contestant.answer()
    except Stopped as reason:
        contestant.skip = f"{reason}: {last_line(folder.name)}"
        return contestant
    contestant.skip = first.get("skip", "")
    if not contestant.skip:
        contestant.ready, contestant.load = first["ready"], first["load"]
        contestant.output, contestant.version = first["output"], first["version"]
    return contestant


def environment(name: str, threads: int, folder: str) -> dict[str, str]:
    """Ours without what slows NumPy; threads for all libraries; compilers' caches empty."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    env.update({k: str(threads) for k in THREAD_VARIABLES})
    paths = [str(HERE.parent)] if name.startswith(OURS) else []
    env["PYTHONPATH"] = os.pathsep.join(paths)
    env["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/torch"
    env["PLANISH_CACHE"] = f"{folder}/planish"
    return env


def errors(folder: str) -> int:
    """A file for what a process prints on standard error."""
    return os.open(f"{folder}/errors", os.O_CREAT | os.O_WRONLY)


def last_line(folder: str) -> str:
    """The last line on standard error."""
    lines = Path(folder, "errors").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def busy() -> float:
    """Seconds that processors have not been idle since the machine started, for whomever."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _wait, irq, soft, steal = file.readline().split()[1:9]
    ticks = sum(map(int, (user, nice, system, irq, soft, steal)))
    return ticks / os.sysconf("SC_CLK_TCK")


def used(process: subprocess.Popen) -> float:
    """Processor seconds that a process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def take_turns(contestants: list[Contestant], rounds: int) -> None:
    """Turn after turn; one whose process ends is skipped from then on."""
    for _ in range(rounds):
        for contestant in contestants:
            if contestant.skip:
                continue
            try:
                contestant.turn()
            except (Stopped, OSError) as reason:
                contestant.skip = f"{reason}: {last_line(contestant.folder.name)}"


def processor() -> str:
    """The name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    return next(names, platform.processor())


def pythons(options: list[str]) -> dict[str, str]:
    """Interpreters by contestant from NAME=PATH; a PATH alone is everybody's but our own."""
    found = {"": sys.executable}
    for option in options:
        name, separator, path = option.rpartition("=")
        found[name if separator else ""] = path
    return {**found, OURS: found.get(OURS, sys.executable)}
