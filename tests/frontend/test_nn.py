"""Layers against plain NumPy, modules as containers of parameters."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

import planish as pl
import planish.nn.functional as F
from planish import nn

RNG = np.random.default_rng(1)
X = RNG.normal(size=(2, 5, 8)).astype(np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def both(module, *arrays):
    """The result at once, after checking that the traced graph gives the same."""
    at_once = module(*arrays)
    graph = pl.trace(module, *arrays)
    np.testing.assert_allclose(pl.interpret(graph, *arrays), at_once, rtol=1e-6, atol=1e-7)
    return at_once


def test_linear_has_pytorchs_layout() -> None:
    layer = nn.Linear(8, 3)
    assert {n: p.shape for n, p in layer.named_parameters()} == {"weight": (3, 8), "bias": (3,)}
    layer.bias.array = np.array([1, 2, 3], np.float32)
    wanted = X @ layer.weight.array.T + [1, 2, 3]
    np.testing.assert_allclose(both(layer, X), wanted, rtol=1e-5, atol=1e-6)
    assert [n for n, _ in nn.Linear(8, 3, bias=False).named_parameters()] == ["weight"]


def test_norms() -> None:
    centred = X - X.mean(-1, keepdims=True)
    wanted = centred / np.sqrt(X.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(both(nn.LayerNorm(8), X), wanted, rtol=1e-5, atol=1e-6)
    wanted = X / np.sqrt((X**2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(both(nn.RMSNorm(8, eps=1e-6), X), wanted, rtol=1e-5, atol=1e-6)


def test_embedding_names_what_is_out_of_range() -> None:
    layer = nn.Embedding(10, 4, what="token id")
    ids = np.array([[1, 9], [0, 3]], np.int32)
    np.testing.assert_array_equal(both(layer, ids), layer.weight.array[ids])
    with pytest.raises(IndexError, match="token id 10 at position"):
        layer(np.array([10]))


def test_activations() -> None:
    np.testing.assert_allclose(nn.ReLU()(X), np.maximum(X, 0))
    np.testing.assert_allclose(nn.SiLU()(X), X / (1 + np.exp(-X)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(nn.Sigmoid()(X), 1 / (1 + np.exp(-X)), rtol=1e-5)
    np.testing.assert_allclose(nn.Softmax()(X), softmax(X), rtol=1e-5)
    inner = math.sqrt(2 / math.pi) * (X + 0.044715 * X**3)
    np.testing.assert_allclose(nn.GELU()(X), 0.5 * X * (1 + np.tanh(inner)), rtol=1e-4, atol=1e-6)
    erf = np.vectorize(math.erf)
    wanted = 0.5 * X * (1 + erf(X / math.sqrt(2)))
    np.testing.assert_allclose(nn.GELU("none")(X), wanted, rtol=1e-4, atol=1e-6)


def test_losses() -> None:
    logits, targets = X, RNG.integers(0, 8, (2, 5))
    targets[0, 0] = -100
    picked = np.log(softmax(X))[targets != -100, targets[targets != -100]]
    np.testing.assert_allclose(nn.CrossEntropyLoss()(logits, targets), -picked.mean(), rtol=1e-5)
    np.testing.assert_allclose(nn.MSELoss()(X, X + 2), 4.0, rtol=1e-6)
    p, y = 1 / (1 + np.exp(-X)), (X > 0.3).astype(np.float32)
    wanted = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    np.testing.assert_allclose(nn.BCEWithLogitsLoss()(X, y), wanted, rtol=1e-5)


def plain_attention(q, k, v, causal: bool) -> np.ndarray:
    """[B, H, T, D] each, by loops."""
    out = np.zeros_like(q)
    for b, h, i in np.ndindex(q.shape[:3]):
        g = h * k.shape[1] // q.shape[1]
        seen = i + 1 + k.shape[2] - q.shape[2] if causal else k.shape[2]
        scores = k[b, g, :seen] @ q[b, h, i] / math.sqrt(q.shape[-1])
        out[b, h, i] = softmax(scores) @ v[b, g, :seen]
    return out


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_fused_projection_heads_and_projection(groups: int, causal: bool) -> None:
    layer = nn.MultiHeadAttention(8, 4, groups, causal=causal, rng=np.random.default_rng(2))
    layer.c_attn.weight.array = layer.c_attn.weight.array * 20
    state = layer.state_dict()
    qkv = X @ state["c_attn.weight"].T
    q, k, v = np.split(qkv, [8, 8 + 2 * groups], axis=-1)
    heads = [a.reshape(2, 5, -1, 2).transpose(0, 2, 1, 3) for a in (q, k, v)]
    mixed = plain_attention(*heads, causal).transpose(0, 2, 1, 3).reshape(2, 5, 8)
    wanted = mixed @ state["c_proj.weight"].T
    np.testing.assert_allclose(both(layer, X), wanted, rtol=1e-4, atol=1e-6)


def test_attention_with_a_cache_continues() -> None:
    layer = nn.MultiHeadAttention(8, 4, 2, rope_base=100.0)
    whole = layer(X)
    cache = tuple(np.zeros((2, 2, 7, 2), np.float32) for _ in range(2))
    first, cache = layer(X[:, :3], None, cache, np.int32(0))
    second, cache = layer(X[:, 3:], None, cache, np.int32(3))
    np.testing.assert_allclose(np.concatenate([first, second], 1), whole, rtol=1e-4, atol=1e-7)
    assert not cache[0][:, :, 5:].any()


def test_dropout_needs_training_mode_and_a_key() -> None:
    key = pl.random.key(3)
    layer = nn.Dropout(0.25)
    x = np.ones((100, 100), np.float32)
    dropped = layer(x, key)
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.75)}
    assert abs((dropped == 0).mean() - 0.25) < 0.02
    np.testing.assert_array_equal(layer(x, key), dropped)
    np.testing.assert_array_equal(layer(x), x)
    np.testing.assert_array_equal(layer.eval()(x, key), x)
    graph = pl.trace(layer, pl.spec(4), key)
    assert [n.op.name for n in graph.nodes] == ["input", "input"]
    with pytest.raises(ValueError, match="0 <= rate < 1"):
        nn.Dropout(1.5)


def test_attention_weights_drop_out() -> None:
    q = RNG.normal(size=(1, 2, 6, 4)).astype(np.float32)
    k = RNG.normal(size=(1, 1, 6, 4)).astype(np.float32)
    none = F.scaled_dot_product_attention(q, k, k, causal=True, dropout_rate=1e-9,
                                          key=pl.random.key(0))  # fmt: skip
    np.testing.assert_allclose(none, plain_attention(q, k, k, True), rtol=1e-4, atol=1e-6)
    some = F.scaled_dot_product_attention(q, k, k, dropout_rate=0.5, key=pl.random.key(0))
    assert not np.allclose(some, plain_attention(q, k, k, False), atol=1e-2)


@pytest.mark.parametrize("kind", ["gelu", "gelu_erf", "relu", "swiglu"])
def test_mlp_kinds(kind: str) -> None:
    layer = nn.MLP(8, 16, kind)
    s = layer.state_dict()
    up = X @ s["c_fc.weight"].T
    act = {"gelu": F.gelu, "relu": F.relu, "gelu_erf": lambda x: F.gelu(x, "none")}
    hidden = F.silu(X @ s["c_gate.weight"].T) * up if kind == "swiglu" else act[kind](up)
    np.testing.assert_allclose(both(layer, X), hidden @ s["c_proj.weight"].T, rtol=1e-4, atol=1e-7)


def test_modules_find_their_parameters_in_order() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            self.first = nn.Linear(8, 4)
            self.blocks = nn.ModuleList([nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 4), np.tanh)])
            self.again = self.first

        def forward(self, x):
            x = self.first(x)
            for block in self.blocks:
                x = block(x)
            return x

    model = Model()
    names = ["first.weight", "first.bias", "blocks.0.weight", "blocks.0.bias",
             "blocks.1.0.weight", "blocks.1.0.bias"]  # fmt: skip
    assert list(model.state_dict()) == names
    assert model.count_parameters() == 8 * 4 + 4 + 4 + 4 + 16 + 4
    graph = pl.trace(model, pl.spec(("B", 8)))
    assert list(graph.params) == names
    assert graph.params["first.weight"].base is model.first.weight.array.base  # not copied
    scopes = {n.loc.scope for n in graph.nodes if n.loc is not None}
    assert scopes == {"first", "blocks.0", "blocks.1.0", "blocks.1.1"}
    assert "(first): Linear(weight: f32[4, 8], bias: f32[4])" in repr(model)
    other = copy.deepcopy(model)
    other.first.weight.array = other.first.weight.array * 2
    assert not np.array_equal(other.first.weight.array, model.first.weight.array)


def test_a_function_that_calls_a_model_reads_its_parameters_by_name() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            self.h = nn.ModuleList([nn.Sequential(nn.Linear(8, 8))])

    model = Model()
    graph = pl.trace(lambda x: model.h[0](x).sum(), X)
    assert list(graph.params) == ["h.0.0.weight", "h.0.0.bias"]


def test_a_state_dict_is_loaded_whole_or_not_at_all() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = model.state_dict()
    wrong = {"0.weight": np.zeros((2, 3), np.float32), "0.bias": np.zeros(3, np.int32),
             "1.weight": np.zeros((1, 3), np.float32), "extra": np.zeros(1)}  # fmt: skip
    with pytest.raises(ValueError) as caught:
        model.load_state_dict(wrong)
    assert str(caught.value) == (
        "the state does not fit Sequential:\n"
        "  missing: 1.bias\n"
        "  unexpected: extra\n"
        "  wrong dtype: 0.bias is float32, got i32\n"
        "  wrong shape: 0.weight is [3, 2], got [2, 3]"
    )
    for name, array in model.state_dict().items():
        assert array is before[name]
    good = {name: np.ones(array.shape, np.float64) for name, array in before.items()}
    model.load_state_dict(good)
    good["0.bias"][:] = 5
    assert model[0].bias.array.dtype == np.float32
    np.testing.assert_array_equal(model[0].bias.array, np.ones(3))
    model.load_state_dict({"0.bias": np.zeros(3), "unknown": np.zeros(1)}, strict=False)
    np.testing.assert_array_equal(model[0].bias.array, np.zeros(3))


def test_parameters_are_read_only_and_traced() -> None:
    p = nn.Parameter(np.ones((2, 3), np.float32), "w")
    with pytest.raises(ValueError, match="read-only"):
        p.array[0] = 2
    np.testing.assert_array_equal((p.T * 2 + 1)[0], [3, 3])
    with pytest.raises(TypeError, match="would freeze its values"):
        pl.trace(lambda x: x + np.asarray(p), pl.spec(3))
    graph = pl.trace(lambda x: np.ones(2, np.float32) @ p + x, pl.spec(3))
    assert set(graph.params) == {"const", "w"}


def test_heads_must_divide() -> None:
    with pytest.raises(ValueError, match="num_heads=3 does not divide embed_dim=8"):
        nn.MultiHeadAttention(8, 3)
    with pytest.raises(ValueError, match="num_kv_heads=3 does not divide num_heads=4"):
        nn.TransformerBlock(8, 4, 3)
    with pytest.raises(ValueError, match="norm is one of layer, rms"):
        nn.TransformerBlock(8, 4, norm="batch")
    with pytest.raises(ValueError, match="mlp is one of"):
        nn.MLP(8, kind="glu")
