"""From loop IR to LLVM: the only place that knows both.

    text     LLVM's types, literals, and the function being written
    value    what an expression is while code is made: a register, or a linear index
    scalar   the scalar operations
    memory   loads and stores of one element or one vector
    bounds   which loads are certainly inside their buffer
    kernel   loops: one Kernel becomes one function
    steps    the plan: one function that calls all kernels, with barriers
    sync     waiting and waking between threads

LLVM is written as text: building llvmlite's objects first takes several times as long.
"""
