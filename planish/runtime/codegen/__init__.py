"""From loop IR to LLVM: the only place that knows both.

    text        LLVM's types and literals, and the function being written
    value       what a value is while code is made: a register, or a linear index
    scalar      the scalar operations
    memory      loads and stores of one element or one vector
    expression  expressions, guards, and what goes across lanes
    reduction   partial results of vector loops
    matrix      matrix loops on tiles
    kernel      statements and loops: one Kernel becomes one function
    functions   the functions of a plan's kernels, gathered into modules
    steps       the plan: one function that calls all kernels, with barriers
    sync        waiting and waking between threads

LLVM is written as text: building llvmlite's objects and printing them takes twice as long, and
they have no vector intrinsics, splat literals or loop weights.
"""
