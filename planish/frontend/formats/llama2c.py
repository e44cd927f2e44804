"""llama2.c's checkpoints: a header of seven integers, then float32 weights in a fixed order.

    i32 width, hidden width, layers, heads, key heads, vocabulary (negative: untied head), context

That is format 0. Format 1 has "ak42", its number and a flag for the head around the same header,
256 bytes in all, and another order. A weight of all layers is one array; the file's size follows
from its header, and anything else is refused before a weight is looked at. Weights stay in the
file, mapped into memory, but for q, k and v, which we keep as one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from planish.frontend.formats.assemble import Part, assemble, stored
from planish.ir.errors import ArtifactError, UnsupportedError
from planish.ir.mapped import mapped

HEADER = struct.Struct("<7i")
MAGIC = 0x616B3432
PADDED = 256  # bytes of format 1's header
LARGEST = 1 << 24  # of a number in a header; others are no header of a checkpoint

# Names in llama2.c of what each layer has -> ours
LAYER = {
    "rms_att": "ln_1.weight", "wq": "", "wk": "", "wv": "", "wo": "attn.c_proj.weight",
    "rms_ffn": "ln_2.weight", "w1": "mlp.c_gate.weight", "w2": "mlp.c_proj.weight",
    "w3": "mlp.c_fc.weight",
}  # fmt: skip


def is_llama2c(head: bytes) -> bool:
    """Whether a file that begins so claims to be a checkpoint of llama2.c."""
    if len(head) < HEADER.size:
        return False
    width, hidden, layers, heads, groups, vocab, context = HEADER.unpack_from(head)
    if width == MAGIC:
        return True
    sizes = (width, hidden, layers, heads, groups, abs(vocab), context)
    return all(0 < x <= LARGEST for x in sizes) and not width % heads and not heads % groups


def load_llama2c(cls: type, path: Path, **options: Any) -> Any:
    """The model in a file for which `is_llama2c` holds."""
    data = mapped(path)
    config, tied, old, start = _header(path, data[:PADDED].tobytes())
    sizes = dict(_sizes(config, tied, old))
    wanted = start + 4 * sum(int(np.prod(x, dtype=object)) for x in sizes.values())
    if wanted != len(data):
        raise ArtifactError(
            f"{path}: llama2.c's header speaks of {wanted:,} bytes, the file has {len(data):,}: "
            "it is cut, or another kind of file"
        )
    arrays: dict[str, np.ndarray] = {}
    at = start
    for name, shape in sizes.items():
        size = 4 * int(np.prod(shape))
        whole = data[at : at + size].view(np.float32).reshape(shape)
        at += size
        if name.split(".")[0] in LAYER:
            arrays |= {f"{name}.{i}": x for i, x in enumerate(whole)}
        elif name != "freq_cis":
            arrays[name] = whole
    return assemble(cls, path, {**config, **options}, _plan, stored(arrays))


def _header(path: Path, head: bytes) -> tuple[dict[str, Any], bool, bool, int]:
    """The configuration, whether the head is tied, whether it is format 0, and its length."""
    old = HEADER.unpack_from(head)[0] != MAGIC
    if not old:
        if len(head) < PADDED:
            raise ArtifactError(f"{path}: cut inside of its header")
        version = struct.unpack_from("<i", head, 4)[0]
        if version != 1:
            raise UnsupportedError(
                f"{path}: llama2.c's format {version}; formats 0 and 1, of float32, are read"
            )
    facts = HEADER.unpack_from(head, 0 if old else 8)
    width, hidden, layers, heads, groups, vocab, context = facts
    tied = vocab > 0 if old else head[8 + HEADER.size] != 0
    if any(not 0 < abs(x) <= LARGEST for x in facts) or any(x < 0 for x in (*facts[:5], context)):
        raise ArtifactError(f"{path}: no header of llama2.c: {list(facts)}")
    config = {
        "vocab_size": abs(vocab), "embed_dim": width, "num_layers": layers, "num_heads": heads,
        "num_kv_heads": groups, "max_seq_len": context, "hidden_dim": hidden, "dropout": 0.0,
        "positions": "rope", "rope_interleaved": True, "norm": "rms", "mlp": "swiglu",
        "bias": False, "tie_head": tied,
    }  # fmt: skip
    return config, tied, old, HEADER.size if old else PADDED


def _sizes(config: dict[str, Any], tied: bool, old: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of what stands in the file, in its order."""
    layers, width, hidden = config["num_layers"], config["embed_dim"], config["hidden_dim"]
    head = width // config["num_heads"]
    queries, keys = config["num_heads"] * head, config["num_kv_heads"] * head
    table = (config["vocab_size"], width)
    layer = {
        "rms_att": (width,), "wq": (queries, width), "wk": (keys, width), "wv": (keys, width),
        "wo": (width, queries), "rms_ffn": (width,), "w1": (hidden, width), "w2": (width, hidden),
        "w3": (hidden, width),
    }  # fmt: skip
    norms = ["rms_att", "rms_ffn"]
    if old:
        yield "embedding", table
        yield from ((name, (layers, *shape)) for name, shape in layer.items())
        yield "rms_final", (width,)
        yield "freq_cis", (config["max_seq_len"], 2 * (head // 2))  # tables that we compute
    else:
        yield from ((name, (layers, *layer[name])) for name in norms)
        yield "rms_final", (width,)
        yield "embedding", table
        yield from ((n, (layers, *shape)) for n, shape in layer.items() if n not in norms)
    if not tied:
        yield "classifier", table


def _plan(model: Any) -> dict[str, tuple[Part, ...]]:
    width = model.config["embed_dim"] // model.config["num_heads"]
    keys = model.config["num_kv_heads"] * width
    found: dict[str, tuple[Part, ...]] = {
        "wte.weight": (Part("embedding"),),
        "ln_f.weight": (Part("rms_final"),),
        "lm_head.weight": (Part("classifier"),),
    }
    for i in range(model.config["num_layers"]):
        found |= {f"h.{i}.{ours}": (Part(f"{n}.{i}"),) for n, ours in LAYER.items() if ours}
        found[f"h.{i}.attn.c_attn.weight"] = (
            Part(f"wq.{i}", model.config["num_heads"] * width),
            Part(f"wk.{i}", keys), Part(f"wv.{i}", keys),
        )  # fmt: skip
    return found
