"""OpenVINO: the model written with its own operators, as its converters leave it.

Decoding keeps keys and values as state: ReadValue, Concat, ScaledDotProductAttention and Assign are
one kernel with a cache that grows in place. `beam` is what makes the runtime see that pattern.
bf16 is a hint to the runtime, which rounds weights and activations itself. For int8, weights are
constants of i8 that are converted and multiplied by a scale for each channel, as its compression
leaves them; the runtime then quantizes activations while it runs, in groups along the row. For
int8_static, FakeQuantize stands before each product, as its quantizer (NNCF) leaves it, with the
range that was seen there on some prompts; the runtime makes products of integers of that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset15 as ops
from openvino import Type
from openvino.op.util import Variable, VariableInfo
from peers.case import Case, Prepare, Run
from workloads import Config, calibration

Node = Any  # openvino.Node
GROUP = "128"  # integers of a row that share a scale


def version() -> str:
    """Of OpenVINO."""
    return ov.__version__.split("-", 1)[0]


def contestant(case: Case, variant: str) -> Prepare:
    """Inference in all dtypes."""
    if case.dtype == "int8_static":
        case.need("prefill", dtypes=(case.dtype,))
        limits = observed(case)
    else:
        case.need("prefill", "decode", dtypes=("f32", "bf16", "int8"))
        limits = {}
    model = Builder(case.c, case.weights, case.dtype.startswith("int8"), limits).model(case)
    run = {"prefill": prefill, "decode": decode}[case.workload]
    return lambda: run(case, compiled(case, model))


def observed(case: Case) -> dict[str, tuple[float, float]]:
    """The range of what multiplies each weight, and 0, on the prompts for calibration."""
    builder = Builder(case.c, case.weights, False, {})
    whole = builder.model(case)
    names = list(builder.operands)
    results = [ops.result(builder.operands[name]) for name in names]
    request = compiled(case, ov.Model(results, whole.get_parameters(), "operands"))
    places = np.arange(case.c.prefill)[None]
    limits = dict.fromkeys(names, (0.0, 0.0))
    for ids in calibration(case.c).astype(np.int64):
        found = request.infer({"ids": ids[None], "places": places})
        for name, x in zip(names, found.to_tuple(), strict=True):
            low, high = limits[name]
            limits[name] = min(low, float(x.min())), max(high, float(x.max()))
    return limits


def compiled(case: Case, model: ov.Model) -> ov.InferRequest:
    """A request of the model, compiled for the shortest time of one call."""
    floats = "f32" if case.dtype.startswith("int8") else case.dtype
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": case.threads,
        "INFERENCE_PRECISION_HINT": floats,
        "KV_CACHE_PRECISION": floats,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": GROUP if case.dtype == "int8" else "0",
    }
    return ov.Core().compile_model(model, "CPU", settings).create_infer_request()


class Builder:
    """The graph being written."""

    def __init__(
        self,
        c: Config,
        weights: dict[str, np.ndarray],
        compressed: bool,
        limits: dict[str, tuple[float, float]],
    ):
        self.c, self.weights, self.compressed, self.limits = c, weights, compressed, limits
        self.operands: dict[str, Node] = {}
        self.sinks: list[Node] = []
        self.variables: list[Variable] = []

    def norm(self, x: Node, name: str) -> Node:
        """LayerNorm over the last axis."""
        y = ops.mvn(x, np.array([-1]), True, 1e-5, "inside_sqrt")
        return ops.add(
            ops.multiply(y, self.weights[f"{name}.weight"]), self.weights[f"{name}.bias"]
        )

    def matrix(self, name: str) -> Node:
        """A weight [N, K]: float32, or i8 with a scale for each row."""
        w = self.weights[name]
        if not self.compressed:
            return ops.constant(w)
        scale = np.abs(w).max(1, keepdims=True) / np.float32(127)
        small = ops.constant(np.rint(w / scale).astype(np.int8))
        return ops.multiply(ops.convert(small, Type.f32), ops.constant(scale))

    def product(self, x: Node, name: str, weight: Node) -> Node:
        """x @ W^T; of x whose range is known 256 values are left, one of them 0."""
        self.operands[name] = x
        if name in self.limits:
            low, high = self.limits[name]
            step = (high - low) / 255
            low = round(low / step) * step
            ends = np.float32(low), np.float32(low + 255 * step)
            x = ops.fake_quantize(x, *ends, *ends, 256)
        return ops.matmul(x, weight, False, True)

    def linear(self, x: Node, name: str) -> Node:
        """x @ W^T + b."""
        y = self.product(x, name, self.matrix(f"{name}.weight"))
        return ops.add(y, self.weights[f"{name}.bias"])

    def heads(self, x: Node) -> Node:
        """[1, T, W] to [1, H, T, D]."""
        shape = np.array([0, 0, self.c.heads, self.c.width // self.c.heads])
        return ops.transpose(ops.reshape(x, shape, True), np.array([0, 2, 1, 3]))

    def block(self, x: Node, i: int, attend: Callable[[Node, Node, Node, int], Node]) -> Node:
        """One transformer block."""
        n = f"h.{i}."
        qkv = self.linear(self.norm(x, n + "ln_1"), n + "attn.c_attn")
        q, k, v = map(self.heads, ops.split(qkv, np.array(2), 3).outputs())
        y = ops.transpose(attend(q, k, v, i), np.array([0, 2, 1, 3]))
        y = ops.reshape(y, np.array([0, 0, self.c.width]), True)
        x = ops.add(x, self.linear(y, n + "attn.c_proj"))
        y = self.linear(self.norm(x, n + "ln_2"), n + "mlp.c_fc")
        return ops.add(x, self.linear(ops.gelu(y, "tanh"), n + "mlp.c_proj"))

    def model(self, case: Case) -> ov.Model:
        """The whole graph."""
        w, decoding = self.weights, case.workload == "decode"
        length = -1 if decoding else case.c.prefill
        inputs = [ops.parameter([1, length], Type.i64, name=n) for n in ("ids", "places")]
        ids, places = inputs
        zero = np.array(0)
        table = self.matrix("wte.weight")
        x = ops.add(ops.gather(table, ids, zero), ops.gather(w["wpe.weight"], places, zero))

        def attend(q, k, v, i):
            return ops.scaled_dot_product_attention(q, k, v, causal=True)

        if decoding:
            beam, mask = self.cache_inputs()
            inputs += [beam, mask]
            attend = lambda q, k, v, i: self.cached(q, k, v, i, beam, mask)  # noqa: E731
        for i in range(self.c.layers):
            x = self.block(x, i, attend)
        last = ops.gather(x, np.array([-1]), np.array(1))
        logits = self.product(self.norm(last, "ln_f"), "head", table)
        if decoding:
            logits = ops.topk(logits, np.array(1), 2, "max", "value", "i64").output(1)
        results = [ops.result(logits)]
        return ov.Model(results, self.sinks, inputs, self.variables, "gpt")

    def cache_inputs(self) -> tuple[Node, Node]:
        """Which sequence each row continues, and what is added to scores [1, 1, T, S]."""
        beam = ops.parameter([1], Type.i32, name="beam")
        return beam, ops.parameter([1, 1, -1, -1], Type.f32, name="mask")

    def cached(self, q: Node, k: Node, v: Node, i: int, beam: Node, mask: Node) -> Node:
        """Attention over the state and `k`, `v`, which are appended to it."""
        k, v = (self.grown(x, f"{n}{i}", beam) for n, x in (("k", k), ("v", v)))
        return ops.scaled_dot_product_attention(q, k, v, mask, causal=False)

    def grown(self, x: Node, name: str, beam: Node) -> Node:
        """State and `x`, which becomes the state."""
        info = VariableInfo()
        depth = self.c.width // self.c.heads
        info.data_shape = ov.PartialShape([1, self.c.heads, -1, depth])
        info.data_type, info.variable_id = Type.f32, name
        variable = Variable(info)
        self.variables.append(variable)
        empty = ops.constant(np.zeros((1, self.c.heads, 0, depth), np.float32))
        past = ops.gather(ops.read_value(empty, variable), beam, np.array(0))
        both = ops.concat([past, x], 2)
        self.sinks.append(ops.assign(both, variable))
        return both


def prefill(case: Case, request: ov.InferRequest) -> Run:
    """Logits of the last position."""
    ids = case.ids.astype(np.int64)
    request.set_tensor("ids", ov.Tensor(ids))
    request.set_tensor("places", ov.Tensor(np.arange(ids.shape[1])[None]))

    def run() -> object:
        request.infer()
        return request.get_output_tensor(0).data

    return run


def decode(case: Case, request: ov.InferRequest) -> Run:
    """Greedy tokens."""
    length, total = case.c.prompt, case.c.prompt + case.steps
    ids, triangle = case.ids.astype(np.int64), np.triu(np.full((length, length), -np.inf), 1)
    causal = triangle[None, None].astype(np.float32)
    request.set_tensor("beam", ov.Tensor(np.zeros(1, np.int32)))

    def step(ids: np.ndarray, places: np.ndarray, mask: np.ndarray) -> np.ndarray:
        request.set_tensor("ids", ov.Tensor(ids))
        request.set_tensor("places", ov.Tensor(places))
        request.set_tensor("mask", ov.Tensor(mask))
        request.infer()
        return request.get_output_tensor(0).data[0].copy()

    def run() -> object:
        request.reset_state()
        token = step(ids, np.arange(length)[None], causal)
        made = [int(token[0, 0])]
        start = time.perf_counter()
        for place in range(length, total):
            mask = np.zeros((1, 1, 1, place + 1), np.float32)
            token = step(token, np.array([[place]]), mask)
            made.append(int(token[0, 0]))
        return time.perf_counter() - start, made

    return run
