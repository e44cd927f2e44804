"""planish: a static graph compiler and runtime for GPT-class models on CPUs.

    import planish as pl

    model = pl.TinyGPT(vocab_size=65, embed_dim=128, num_layers=4, num_heads=4, max_seq_len=64)
    graph = pl.trace(model, pl.spec(("B", "T"), "i32"))
    program = pl.compile(graph)
    logits = program(tokens)

Names load on first use, so that `import planish` is quick and needs no compiler.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Where each public name lives
_NAMES = {
    "planish.frontend.trace": ("trace", "spec"),
    "planish.frontend.tensor": ("Tensor",),
    "planish.frontend.transform": ("grad", "value_and_grad", "vjp"),
    "planish.frontend.api": ("compile", "interpret", "compare", "bisect"),
    "planish.frontend.bundle": ("save_bundle",),
    "planish.frontend.saved": ("load",),
    "planish.frontend.models.tinygpt": ("TinyGPT",),
    "planish.frontend.generate": ("Generator",),
    "planish.frontend.writing": ("generate_text",),
    "planish.frontend.text": ("CharTokenizer", "default_corpus", "read_text"),
    "planish.frontend.tokenizers.base": ("Tokenizer",),
    "planish.frontend.tokenizers.bpe": ("BytePairTokenizer",),
    "planish.frontend.tokenizers.stored": ("read_tokenizer",),
    "planish.frontend.perplexity": ("perplexity",),
    "planish.frontend.training": ("Trainer", "training_graph"),
    "planish.frontend.prune": ("prune",),
    "planish.frontend.gradual": ("Gradual",),
    "planish.frontend.quantize": ("quantize", "calibrate", "layer_report"),
    "planish.frontend.compress": ("compress",),
    "planish.frontend.auto": ("auto_recipe",),
    "planish.frontend.sensitivity": ("sensitivity",),
    "planish.frontend.checkpoint": ("save",),
    "planish.frontend.pretrained": ("load_model",),
    "planish.ir.dims": ("Dim",),
    "planish.ir.graph": ("Graph",),
    "planish.ir.parse": ("parse",),
    "planish.ir.store": ("save_graph", "load_graph"),
    "planish.passes.pipeline": ("Pipeline",),
    "planish.passes.pipelines": ("PIPELINES",),
    "planish.ir.errors": (
        "PlanishError", "TraceError", "ShapeError", "AxisError", "SizeError", "DTypeError",
        "IRError", "ParseError", "GradientError", "CompileError", "LinkError", "TargetError",
        "ArtifactError", "DataError", "TokenError", "UnsupportedError",
    ),
}  # fmt: skip
_MODULES = {
    "nn": "planish.nn",
    "numpy": "planish.numpy",
    "random": "planish.frontend.random",
    "optim": "planish.frontend.optim",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["__version__", *_HOME, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        found = import_module(_MODULES[name])
    elif name in _HOME:
        found = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'planish' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
