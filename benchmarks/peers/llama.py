"""llama.cpp, built for this machine; the model is written as a GGUF file without a vocabulary.

Weights of matrices, keys and values are bf16, for int8 Q8_0 (a scale for 32 integers; activations,
too, while it runs), for int4 Q4_0 with a table of Q8_0, whose keys and values are f16; norms and
biases are float32.
"""

from __future__ import annotations

import ctypes
import tempfile
import time
from pathlib import Path

import gguf
import llama_cpp as llama
import numpy as np
from gguf import GGMLQuantizationType as Kind
from peers.case import Case, Prepare, Run, Unsupported

NAMES = {
    "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip
KINDS = {"bf16": Kind.BF16, "int8": Kind.Q8_0, "int4": Kind.Q4_0}
TABLES = {**KINDS, "int4": Kind.Q8_0}
CACHES = {"bf16": Kind.BF16, "int8": Kind.F16, "int4": Kind.F16}


def version() -> str:
    """Of the bindings."""
    return llama.__version__


def contestant(case: Case, variant: str) -> Prepare:
    """Inference in bf16, int8 and int4."""
    case.need("prefill", "decode", dtypes=("f32", "bf16", "int8", "int4"))
    if case.dtype == "f32":
        raise Unsupported("its float32 has a GELU from a table of half precision: off by 2e-3")
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "model.gguf"
    write(case, path)

    def prepare() -> Run:
        with folder:
            session = Session(case, path)
        return {"prefill": prefill, "decode": decode}[case.workload](case, session)

    return prepare


def write(case: Case, path: Path) -> None:
    """The model as a file."""
    c, writer = case.c, gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.width)
    writer.add_feed_forward_length(4 * c.width)
    writer.add_block_count(c.layers)
    writer.add_head_count(c.heads)
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(c.vocab)
    writer.add_tokenizer_model("no_vocab")
    for name, x in case.weights.items():
        module, _, which = name.rpartition(".")
        layer, _, part = module.removeprefix("h.").partition(".")
        known = f"blk.{layer}.{NAMES[part]}" if part and layer.isdigit() else NAMES[module]
        narrow = x.ndim == 2 and module != "wpe"
        kinds = TABLES if module == "wte" else KINDS
        kind = kinds[case.dtype] if narrow else Kind.F32
        data = gguf.quantize(x, kind) if narrow else np.ascontiguousarray(x)
        writer.add_tensor(f"{known}.{which}", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Session:
    """A model and its context."""

    def __init__(self, case: Case, path: Path):
        llama.llama_backend_init()
        options = llama.llama_model_default_params()
        options.use_mmap, options.n_gpu_layers = False, 0
        self.model = llama.llama_model_load_from_file(str(path).encode(), options)
        settings = llama.llama_context_default_params()
        length = case.ids.shape[1]
        settings.n_ctx = length + (case.c.new if case.workload == "decode" else 0)
        settings.n_batch = settings.n_ubatch = length
        settings.n_threads = settings.n_threads_batch = case.threads
        settings.type_k = settings.type_v = int(CACHES[case.dtype])
        self.context = llama.llama_init_from_model(self.model, settings)
        if not self.model or not self.context:
            raise RuntimeError("llama.cpp does not load the model")
        self.vocab = case.c.vocab

    def clear(self) -> None:
        """Forget all tokens."""
        llama.llama_memory_clear(llama.llama_get_memory(self.context), False)

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """Those after the next `ids`, i32."""
        pointer = ids.ctypes.data_as(ctypes.POINTER(llama.llama_token))
        if llama.llama_decode(self.context, llama.llama_batch_get_one(pointer, len(ids))):
            raise RuntimeError("llama_decode failed")
        found = llama.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(found, (self.vocab,))


def prefill(case: Case, session: Session) -> Run:
    """Logits of the last position."""
    ids = case.ids[0].copy()

    def run() -> object:
        session.clear()
        return session.logits(ids)

    return run


def decode(case: Case, session: Session) -> Run:
    """Greedy tokens."""
    ids, token = case.ids[0].copy(), np.zeros(1, np.int32)

    def run() -> object:
        session.clear()
        made = [int(session.logits(ids).argmax())]
        start = time.perf_counter()
        for _ in range(case.steps):
            token[0] = made[-1]
            made.append(int(session.logits(token).argmax()))
        return time.perf_counter() - start, made

    return run
