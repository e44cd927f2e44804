"""The model as an ONNX graph, as the exporters of generation libraries write it.

Activations are matrices [T, W], so that linear layers are Gemm with the bias in it, on constant
weights stored as [in, out]; or MatMul and Add, which the quantizer takes. Attention is one node:
for a prefill the standard's own, for decoding GroupQueryAttention, the operator of
onnxruntime-genai, which writes caches of fixed size in place.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from workloads import Config

OPSET, IR_VERSION = 23, 11
CONTRIB = "com.microsoft"


class Builder:
    """Nodes and constants of a graph being written; values are names."""

    def __init__(self, c: Config, weights: dict[str, np.ndarray], fused: bool):
        self.c, self.fused = c, fused
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.weights = weights

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attrs: object):
        """Add a node; the name of its output, or the list of names."""
        names = [f"{kind}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, domain=domain, **attrs))
        return names[0] if outputs == 1 else names

    def const(self, name: str, array: object) -> str:
        """A constant by name."""
        self.constants[name] = np.asarray(array)
        return name

    def weight(self, name: str, transposed: bool = False) -> str:
        """A weight of the model."""
        x = self.weights[name]
        if not transposed:
            return self.const(name, x)
        return self.const(f"{name}.T", np.ascontiguousarray(x.T))

    def norm(self, x: str, name: str) -> str:
        """LayerNorm."""
        w, b = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.op("LayerNormalization", x, w, b, epsilon=1e-5)

    def linear(self, x: str, name: str) -> str:
        """x @ W + b."""
        w, b = self.weight(f"{name}.weight", transposed=True), self.weight(f"{name}.bias")
        return (
            self.op("Gemm", x, w, b) if self.fused else self.op("Add", self.op("MatMul", x, w), b)
        )

    def gelu(self, x: str) -> str:
        """GELU by tanh, one node."""
        return self.op("FastGelu", x, domain=CONTRIB)

    def embedded(self) -> str:
        """Tokens and positions."""
        x = self.op("Gather", self.weight("wte.weight"), "ids")
        return self.op("Add", x, self.op("Gather", self.weight("wpe.weight"), "places"))

    def logits(self, x: str) -> str:
        """Logits [1, V] of the last position."""
        last = self.op("Gather", x, self.const("last", np.array([-1])), axis=0)
        head = self.weight("wte.weight", transposed=True)
        return self.op("MatMul", self.norm(last, "ln_f"), head)

    def block(self, x: str, i: int, attention: Callable[[str, int], str]) -> str:
        """One transformer block; `attention` of (QKV [1, T, 3 W], i) gives [1, T, W]."""
        n = f"h.{i}."
        qkv = self.linear(self.norm(x, n + "ln_1"), n + "attn.c_attn")
        rows = self.const("rows", np.array([1, -1, 3 * self.c.width]))
        y = attention(self.op("Reshape", qkv, rows), i)
        y = self.op("Reshape", y, self.const("matrix", np.array([-1, self.c.width])))
        x = self.op("Add", x, self.linear(y, n + "attn.c_proj"))
        y = self.gelu(self.linear(self.norm(x, n + "ln_2"), n + "mlp.c_fc"))
        return self.op("Add", x, self.linear(y, n + "mlp.c_proj"))

    def whole(self, qkv: str, i: int) -> str:
        """Causal attention without a cache."""
        heads = self.c.heads
        thirds = self.const("thirds", np.array([self.c.width] * 3))
        q, k, v = self.op("Split", qkv, thirds, outputs=3, axis=-1)
        return self.op("Attention", q, k, v, q_num_heads=heads, kv_num_heads=heads, is_causal=1)

    def cached(self, qkv: str, i: int) -> str:
        """Causal attention with caches `k{i}`, `v{i}` [1, H, S, D], written in place."""
        inputs = [qkv, "", "", f"k{i}", f"v{i}", "seqlens", "total"]
        outputs = [f"attention{i}", f"new_k{i}", f"new_v{i}"]
        self.nodes.append(
            helper.make_node(
                "GroupQueryAttention", inputs, outputs, domain=CONTRIB,
                num_heads=self.c.heads, kv_num_heads=self.c.heads,
            )
        )  # fmt: skip
        return outputs[0]

    def model(self, inputs: list, outputs: list) -> onnx.ModelProto:
        """The graph, checked."""
        constants = [numpy_helper.from_array(x, name) for name, x in self.constants.items()]
        graph = helper.make_graph(self.nodes, "gpt", inputs, outputs, constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def prefill_graph(c: Config, weights: dict[str, np.ndarray], fused: bool) -> onnx.ModelProto:
    """(ids [T], places [T]) -> logits of the last position."""
    b = Builder(c, weights, fused)
    x = b.embedded()
    for i in range(c.layers):
        x = b.block(x, i, b.whole)
    logits = helper.make_tensor_value_info(b.logits(x), T.FLOAT, [1, c.vocab])
    return b.model([sequence("ids"), sequence("places")], [logits])


def decode_graph(
    c: Config, weights: dict[str, np.ndarray], size: int, fused: bool
) -> onnx.ModelProto:
    """(ids, places, seqlens, total, caches) -> (next token, caches): prompts and single tokens."""
    b = Builder(c, weights, fused)
    x = b.embedded()
    for i in range(c.layers):
        x = b.block(x, i, b.cached)
    token = b.op("ArgMax", b.logits(x), axis=-1, keepdims=0)
    b.nodes.append(helper.make_node("Identity", [token], ["token"]))
    info = helper.make_tensor_value_info
    shape = [1, c.heads, size, c.width // c.heads]
    names = cache_names(c)
    inputs = [
        sequence("ids"), sequence("places"), info("seqlens", T.INT32, [1]),
        info("total", T.INT32, []), *(info(n, T.FLOAT, shape) for n in names),
    ]  # fmt: skip
    caches = [info(f"new_{n}", T.FLOAT, shape) for n in names]
    return b.model(inputs, [info("token", T.INT64, [1]), *caches])


def cache_names(c: Config) -> list[str]:
    """The inputs that are caches; `new_` and the name is the output."""
    return [f"{kind}{i}" for i in range(c.layers) for kind in "kv"]


def sequence(name: str) -> onnx.ValueInfoProto:
    """An input of whole numbers, as long as the sequence."""
    return helper.make_tensor_value_info(name, T.INT64, ["T"])
