"""JAX: the same model, jit of whole workloads.

Weights are arguments, stored as [in, out]. Greedy decoding is one call: `lax.scan` over tokens,
with caches of fixed size as its carry. A training step is one call that donates weights and state.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from peers.case import Case, Prepare, Run
from workloads import BETAS, CLIP, DECAY, EPS, RATE, batch

Tree = dict[str, Any]
DTYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16}


def version() -> str:
    """Of JAX."""
    return jax.__version__


def contestant(case: Case, variant: str) -> Prepare:
    """On the CPU; XLA takes as many threads as there are cores that the process may use."""
    case.need("prefill", "decode", "train")
    jax.config.update("jax_platforms", "cpu")
    narrow = case.workload != "train"
    w = {
        name: jnp.asarray(_stored(name, x), DTYPES[case.dtype] if narrow else jnp.float32)
        for name, x in case.weights.items()
    }
    jax.block_until_ready(w)
    return lambda: {"prefill": prefill, "decode": decode, "train": train}[case.workload](case, w)


def _stored(name: str, x: np.ndarray) -> np.ndarray:
    """Matrices of layers as [in, out]; the token table, which is the head, as it is."""
    return x.T if name.startswith("h.") and x.ndim == 2 else x


def norm(x: jax.Array, w: Tree, name: str) -> jax.Array:
    """LayerNorm, computed in float32."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    y = centred * lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)
    return (y * w[f"{name}.weight"] + w[f"{name}.bias"]).astype(x.dtype)


def linear(x: jax.Array, w: Tree, name: str) -> jax.Array:
    """x @ W + b."""
    return x @ w[f"{name}.weight"] + w[f"{name}.bias"]


def attention(q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array) -> jax.Array:
    """[B, T, H, D]; `seen` [T, S] says which keys a query sees. Softmax in float32."""
    scores = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(seen, scores * q.shape[-1] ** -0.5, -jnp.inf)
    shares = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhts,bshd->bthd", shares, v)


def blocks(case: Case, w: Tree, ids: jax.Array, start: Any, caches: Any) -> tuple[jax.Array, Any]:
    """Hidden states, and the caches [layers, 2, B, S, H, D] where there are some."""
    c, (rows, length) = case.c, ids.shape
    places = start + jnp.arange(length)
    x = w["wte.weight"][ids] + w["wpe.weight"][places]
    size = length if caches is None else caches[0][0].shape[1]
    seen = jnp.arange(size) <= places[:, None]
    kept = []
    for i in range(c.layers):
        qkv = linear(norm(x, w, f"h.{i}.ln_1"), w, f"h.{i}.attn.c_attn")
        q, k, v = (z.reshape(rows, length, c.heads, -1) for z in jnp.split(qkv, 3, -1))
        if caches is not None:
            at = (0, start, 0, 0)
            k = lax.dynamic_update_slice(caches[i][0], k, at)
            v = lax.dynamic_update_slice(caches[i][1], v, at)
            kept.append((k, v))
        y = attention(q, k, v, seen).reshape(rows, length, c.width)
        x = x + linear(y, w, f"h.{i}.attn.c_proj")
        y = jax.nn.gelu(linear(norm(x, w, f"h.{i}.ln_2"), w, f"h.{i}.mlp.c_fc"), approximate=True)
        x = x + linear(y, w, f"h.{i}.mlp.c_proj")
    return x, kept


def head(w: Tree, x: jax.Array) -> jax.Array:
    """Logits in float32."""
    x = norm(x, w, "ln_f")
    return jnp.einsum("...w,vw->...v", x, w["wte.weight"], preferred_element_type=jnp.float32)


def prefill(case: Case, w: Tree) -> Run:
    """Logits of the last position."""
    logits = jax.jit(lambda w, ids: head(w, blocks(case, w, ids, 0, None)[0][:, -1]))
    ids = jnp.asarray(case.ids)
    return lambda: np.asarray(logits(w, ids))


def decode(case: Case, w: Tree) -> Run:
    """Greedy tokens: a call for the prompt, a call for all others."""
    c = case.c
    shape = 1, c.prompt + case.steps, c.heads, c.width // c.heads

    def read(w: Tree, ids: jax.Array) -> Any:
        zeros = jnp.zeros(shape, w["wte.weight"].dtype)
        x, caches = blocks(case, w, ids, 0, [(zeros, zeros)] * c.layers)
        return head(w, x[:, -1]).argmax(-1), caches

    def write(w: Tree, token: jax.Array, caches: Any) -> Any:
        def step(carry: Any, place: jax.Array) -> Any:
            token, caches = carry
            x, caches = blocks(case, w, token[:, None], place, caches)
            token = head(w, x[:, -1]).argmax(-1)
            return (token, caches), token

        places = jnp.arange(c.prompt, c.prompt + case.steps)
        (_, caches), made = lax.scan(step, (token, caches), places)
        return made, caches  # which are donated

    first, others = jax.jit(read), jax.jit(write, donate_argnums=2)
    ids = jnp.asarray(case.ids)

    def run() -> object:
        token, caches = jax.block_until_ready(first(w, ids))
        start = time.perf_counter()
        made = np.asarray(others(w, token, caches)[0])
        took = time.perf_counter() - start
        return took, np.concatenate([np.asarray(token)[None], made])

    return run


def loss_of(case: Case, w: Tree, x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean cross entropy; in bf16 all products are of bf16, masters stay float32."""
    w = {name: z.astype(DTYPES[case.dtype]) for name, z in w.items()}
    logits = head(w, blocks(case, w, x, 0, None)[0])
    picked = jnp.take_along_axis(logits, y[..., None], -1)[..., 0]
    return (jax.nn.logsumexp(logits, axis=-1) - picked).mean()


def updated(w: Tree, m: Tree, v: Tree, grads: Tree, step: jax.Array) -> tuple[Tree, Tree, Tree]:
    """Clipping and AdamW by hand."""
    size = jnp.sqrt(sum(jnp.square(g).sum() for g in grads.values()))
    grads = {k: g * jnp.minimum(1.0, CLIP / (size + 1e-6)) for k, g in grads.items()}
    first, second = BETAS
    m = {k: first * m[k] + (1 - first) * g for k, g in grads.items()}
    v = {k: second * v[k] + (1 - second) * g * g for k, g in grads.items()}
    to, root = RATE / (1 - first**step), jnp.sqrt(1 - second**step)
    new = {
        k: p * (1 - RATE * DECAY * (p.ndim >= 2)) - to * m[k] / (jnp.sqrt(v[k]) / root + EPS)
        for k, p in w.items()
    }
    return new, m, v


def train(case: Case, w: Tree) -> Run:
    """Value and gradient, clipping, AdamW: one call."""

    def step(w: Tree, m: Tree, v: Tree, count: jax.Array, x: jax.Array, y: jax.Array) -> Any:
        value, grads = jax.value_and_grad(lambda w: loss_of(case, w, x, y))(w)
        return *updated(w, m, v, grads, count + 1), count + 1, value

    call = jax.jit(step, donate_argnums=(0, 1, 2, 3))
    zeros = {k: jnp.zeros_like(p) for k, p in w.items()}
    state = [w, zeros, {k: jnp.zeros_like(p) for k, p in w.items()}, jnp.zeros((), jnp.float32)]
    x, y = map(jnp.asarray, batch(case.c))

    def run() -> object:
        *state[:], value = call(*state, x, y)
        return jax.block_until_ready(state) and float(value)

    return run
