"""ONNX Runtime: all graph optimisations, its arena, threads that spin, buffers bound once.

Integers are those of its dynamic quantizer, or (`weights`) of weights alone, in groups: products
are MatMulNBits then, which makes activations bytes while it runs.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
)
from peers.case import Case, Prepare, Run
from peers.onnx_graph import cache_names, decode_graph, prefill_graph
from workloads import calibration

GROUP = 64  # weights that share a scale


def version() -> str:
    """Of ONNX Runtime."""
    return ort.__version__


def contestant(case: Case, variant: str) -> Prepare:
    """Inference in float32, int8 and int4: there are no kernels for bf16 on x86."""
    if case.dtype == "int8_static" and not variant:
        case.need("prefill", dtypes=(case.dtype,))
    else:
        dtypes = ("int8", "int4") if variant else ("f32", "int8")
        case.need("prefill", "first", "decode", dtypes=dtypes)
    fused = case.dtype == "f32"  # it quantizes no Gemm
    if case.workload == "prefill":
        model = prefill_graph(case.c, case.weights, fused)
    else:
        model = decode_graph(case.c, case.weights, case.ids.shape[1] + case.steps, fused)
    if variant:
        model = in_groups(model, 8 if case.dtype == "int8" else 4)
    elif case.dtype == "int8":
        model = quantized(model)
    elif case.dtype == "int8_static":
        model = quantized_statically(model, case)
    text = model.SerializeToString()
    run = {"prefill": prefill, "first": first, "decode": decode}[case.workload]
    return lambda: run(case, session(case, text))


def quantized(model: onnx.ModelProto) -> onnx.ModelProto:
    """Dynamic int8: weights of i8 with a scale for each channel, activations with one for each
    tensor; products become MatMulIntegerToFloat and DynamicQuantizeMatMul."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "int8.onnx"
        quantize_dynamic(
            model, out, op_types_to_quantize=["MatMul"], per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )  # fmt: skip
        return onnx.load(out)


class Prompts(CalibrationDataReader):
    """The prompts for calibration."""

    def __init__(self, case: Case):
        self.rows = iter(calibration(case.c).astype(np.int64))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The inputs of the next; None after the last."""
        ids = next(self.rows, None)
        return None if ids is None else {"ids": ids, "places": np.arange(len(ids))}


def quantized_statically(model: onnx.ModelProto, case: Case) -> onnx.ModelProto:
    """Static int8: a scale and a zero for what multiplies each weight, found on some prompts."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "int8.onnx"
        quantize_static(
            model, out, Prompts(case), quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"], per_channel=True, activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )  # fmt: skip
        return onnx.load(out)


def in_groups(model: onnx.ModelProto, bits: int) -> onnx.ModelProto:
    """Weights of so many bits with a scale for each group; a head of 4 bits would be too coarse."""
    for i, node in enumerate(model.graph.node):  # what is excluded goes by name
        node.name = f"node{i}"
    head = [x.name for x in model.graph.node if x.op_type == "MatMul"][-1]
    skipped = [head] if bits == 4 else []
    found = weights_only(model, bits, skipped)
    return weights_only(found, 8, []) if skipped else found


def weights_only(model: onnx.ModelProto, bits: int, skipped: list[str]) -> onnx.ModelProto:
    """MatMulNBits for MatMul; activations are multiplied as bytes."""
    settings = DefaultWeightOnlyQuantConfig(
        block_size=GROUP, is_symmetric=True, accuracy_level=4, bits=bits
    )
    made = MatMulNBitsQuantizer(
        model, bits, GROUP, True, 4, nodes_to_exclude=skipped, algo_config=settings
    )
    made.process()
    return made.model.model


def session(case: Case, model: bytes) -> ort.InferenceSession:
    """A session with the best known settings."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads, options.inter_op_num_threads = case.threads, 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = True
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def tensor(x: object, dtype: type = np.int64) -> ort.OrtValue:
    """A tensor in the runtime's memory."""
    return ort.OrtValue.ortvalue_from_numpy(np.asarray(x, dtype))


def prefill(case: Case, model: ort.InferenceSession) -> Run:
    """Logits of the last position."""
    (ids,) = case.ids
    bound, (output,) = model.io_binding(), model.get_outputs()
    bound.bind_ortvalue_input("ids", tensor(ids))
    bound.bind_ortvalue_input("places", tensor(np.arange(len(ids))))
    logits = tensor(np.zeros((1, case.c.vocab)), np.float32)
    bound.bind_ortvalue_output(output.name, logits)

    def run() -> object:
        model.run_with_iobinding(bound)
        return logits.numpy()

    return run


class Decoder:
    """A session with all its buffers bound: the token it gives is the token it takes next."""

    def __init__(self, case: Case, model: ort.InferenceSession):
        c = case.c
        self.model, self.bound, self.ids = model, model.io_binding(), case.ids[0]
        self.token, self.place = tensor([0]), tensor([0])
        self.seqlens, self.total = tensor([0], np.int32), tensor(0, np.int32)
        self.bound.bind_ortvalue_input("seqlens", self.seqlens)
        self.bound.bind_ortvalue_input("total", self.total)
        self.bound.bind_ortvalue_output("token", self.token)
        shape = 1, c.heads, len(self.ids) + case.steps, c.width // c.heads
        for name in cache_names(c):
            cache = tensor(np.zeros(shape), np.float32)
            self.bound.bind_ortvalue_input(name, cache)
            self.bound.bind_ortvalue_output(f"new_{name}", cache)

    def read(self) -> None:
        """The prompt; from then on the token is the input."""
        self.bound.bind_ortvalue_input("ids", tensor(self.ids))
        self.bound.bind_ortvalue_input("places", tensor(np.arange(len(self.ids))))
        self._run(len(self.ids))
        self.bound.bind_ortvalue_input("ids", self.token)
        self.bound.bind_ortvalue_input("places", self.place)

    def step(self, place: int) -> None:
        """The token at `place` is read."""
        self.place.update_inplace(np.array([place]))
        self._run(place + 1)

    def _run(self, total: int) -> None:
        self.seqlens.update_inplace(np.array([total - 1], np.int32))
        self.total.update_inplace(np.array(total, np.int32))
        self.model.run_with_iobinding(self.bound)


def first(case: Case, model: ort.InferenceSession) -> Run:
    """The prompt's own token, by the graph that decodes."""
    decoder = Decoder(case, model)

    def run() -> object:
        decoder.read()
        return [int(decoder.token.numpy()[0])]

    return run


def decode(case: Case, model: ort.InferenceSession) -> Run:
    """Greedy tokens."""
    decoder = Decoder(case, model)

    def run() -> object:
        decoder.read()
        made = [int(decoder.token.numpy()[0])]
        start = time.perf_counter()
        for place in range(case.c.prompt, case.c.prompt + case.steps):
            decoder.step(place)
            made.append(int(decoder.token.numpy()[0]))
        return time.perf_counter() - start, made

    return run
