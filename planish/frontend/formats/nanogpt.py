"""nanoGPT's weights in a safetensors file: `save_file(model.state_dict(), path)`.

Names are ours behind "transformer." (and behind "_orig_mod." where torch.compile was used); sizes
follow from the arrays. The number of heads does not: it is in the file's metadata as "n_head", or
given as `from_pretrained(path, num_heads=6)`. The activation is nn.GELU, by erf; checkpoints from
before it was used need `mlp="gelu"`.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from planish.frontend.checkpoint import File
from planish.frontend.formats.assemble import Part, assemble, stored
from planish.ir.errors import ArtifactError, DataError

COMPILED, PREFIX = "_orig_mod.", "transformer."
TABLES = (PREFIX + "wte.weight", PREFIX + "wpe.weight")
BUFFERS = r"transformer\.h\.\d+\.attn\.bias"


def is_nanogpt(file: File) -> bool:
    """Whether the arrays have nanoGPT's names."""
    names = {x.removeprefix(COMPILED) for x in file.arrays}
    return "planish.model" not in file.metadata and names.issuperset(TABLES)


def load_nanogpt(cls: type, file: File, **options: Any) -> Any:
    """The model in a file for which `is_nanogpt` holds."""
    arrays = {name.removeprefix(COMPILED): x for name, x in file.arrays.items()}
    words, places = (arrays[name] for name in TABLES)
    if words.ndim != 2 or places.ndim != 2:
        raise ArtifactError(f"{file.path}: {' and '.join(TABLES)} are matrices")
    head = arrays.pop("lm_head.weight", words)
    if not np.array_equal(head, words):
        raise ArtifactError(f"{file.path}: lm_head.weight is not {TABLES[0]}, as in nanoGPT it is")
    numbers = re.findall(r"^transformer\.h\.(\d{1,9})\.", "\n".join(arrays), re.MULTILINE)
    config = {
        "vocab_size": len(words), "embed_dim": words.shape[1], "max_seq_len": len(places),
        "num_layers": 1 + max(map(int, numbers), default=0), "dropout": 0.0, "mlp": "gelu_erf",
        "bias": PREFIX + "ln_f.bias" in arrays, "num_heads": _heads(file, options), **options,
    }  # fmt: skip

    def plan(model: Any) -> dict[str, tuple[Part, ...]]:
        return {name: (Part(PREFIX + name),) for name in model.state_dict()}

    return assemble(cls, file.path, config, plan, stored(arrays), BUFFERS)


def _heads(file: File, options: dict[str, Any]) -> int:
    """The number of heads, which no array tells."""
    if "num_heads" in options:
        return options["num_heads"]
    told = file.metadata.get("n_head")
    if told is None:
        raise DataError(
            f"{file.path}: weights of nanoGPT do not tell the number of heads; say "
            "from_pretrained(path, num_heads=...), or write it into the metadata as n_head"
        )
    if not re.fullmatch(r"[0-9]{1,6}", told):
        raise ArtifactError(f"{file.path}: n_head is a number, got {told!r:.40}")
    return int(told)
