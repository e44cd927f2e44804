"""Processors that have a name in LLVM and none in `CPUS`: which of our instruction sets they have.

LLVM's C interface lists no features, but its inliner compares them: a function for a processor with
one more feature becomes part of one for the processor if that has the feature already. A name that
LLVM does not know is told on standard error or ends the process, so another process asks.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import llvmlite.binding as llvm

from planish.runtime.cpus import CPUS

UNKNOWN = "not a recognized processor"
HELP = "help"  # is no processor: makes LLVM list them
_FUNCTIONS = """
define internal i32 @one{n}(ptr %x) #{n} {{
  %y = load volatile i32, ptr %x
  ret i32 %y
}}
define i32 @other{n}(ptr %x) #0 {{
  %y = call i32 @one{n}(ptr %x)
  ret i32 %y
}}
attributes #{n} = {{ "target-cpu"="{cpu}" "target-features"="+{feature}" }}
"""


def features_of(triple: str, cpu: str) -> list[str] | None:
    """Those features of `CPUS` that a processor has; None where LLVM does not know the name."""
    if cpu == HELP or not cpu.replace("-", "").replace("_", "").isalnum():
        return None
    command = [sys.executable, "-m", __name__, triple, cpu]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode or UNKNOWN in done.stderr else done.stdout.split()


def asked(triple: str, cpu: str, names: Sequence[str]) -> list[str]:
    """Those of the features `names` that a processor has."""
    parts = [f'target triple = "{triple}"\nattributes #0 = {{ "target-cpu"="{cpu}" }}\n']
    parts += [_FUNCTIONS.format(n=n, cpu=cpu, feature=x) for n, x in enumerate(names, 1)]
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=2)
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(2))
    module = llvm.parse_assembly("".join(parts))
    builder.getModulePassManager().run(module, builder)
    text = str(module)
    return [x for n, x in enumerate(names, 1) if f"@one{n}(" not in text]


if __name__ == "__main__":
    arch = sys.argv[1].split("-", 1)[0]
    ours = sorted({x for which, listed in CPUS.values() if which == arch for x in listed.split()})
    print(*asked(sys.argv[1], sys.argv[2], ours))
