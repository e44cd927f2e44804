"""TinyGPT against an independent NumPy implementation, its gradients against differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

import planish as pl

SIZE = {"vocab_size": 11, "embed_dim": 16, "num_layers": 2, "num_heads": 4, "max_seq_len": 12,
        "dropout": 0.0}  # fmt: skip
FAMILY = {
    "gpt2": {},
    "no bias, erf": {"bias": False, "mlp": "gelu_erf"},
    "sinusoidal": {"positions": "sinusoidal", "tie_head": False},
    "llama": {"positions": "rope", "norm": "rms", "mlp": "swiglu", "num_kv_heads": 2,
              "bias": False, "tie_head": False, "hidden_dim": 24},
    "interleaved rope": {"positions": "rope", "rope_interleaved": True, "num_kv_heads": 1},
}  # fmt: skip
TOKENS = np.random.default_rng(0).integers(0, 11, (2, 7)).astype(np.int32)


def model_of(name: str, **more) -> pl.TinyGPT:
    """A member of the family with weights large enough to matter."""
    model = pl.TinyGPT(**SIZE, **FAMILY[name], **more, seed=3)
    rng = np.random.default_rng(4)
    for _, p in model.named_parameters():
        p.array = (p.array + rng.normal(size=p.shape) * 0.2).astype(np.float32)
    return model


def rotated(x: np.ndarray, t: int, interleaved: bool) -> np.ndarray:
    """One head's features at position t, rotated pair by pair."""
    y, half = x.copy(), len(x) // 2
    for i in range(half):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
        c, s = (f(t * 10000.0 ** (-i / half)) for f in (math.cos, math.sin))
        y[a], y[b] = x[a] * c - x[b] * s, x[b] * c + x[a] * s
    return y


def reference(state: dict[str, np.ndarray], config: dict, tokens: np.ndarray) -> np.ndarray:
    """The logits of one sequence, in f64, one position at a time where that is plainest."""
    w = {k: v.astype(np.float64) for k, v in state.items()}
    heads, width = config["num_heads"], config["embed_dim"] // config["num_heads"]
    groups = config["num_kv_heads"] or heads

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def norm(x, name):
        if config["norm"] == "rms":
            return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"]
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * w[f"{name}.weight"] + w.get(f"{name}.bias", 0)

    def attend(x, name):
        qkv = linear(x, f"{name}.c_attn").reshape(len(x), heads + 2 * groups, width)
        if config["positions"] == "rope":
            for t in range(len(x)):
                for h in range(heads + groups):
                    qkv[t, h] = rotated(qkv[t, h], t, config["rope_interleaved"])
        out = np.zeros((len(x), heads, width))
        for t in range(len(x)):
            for h in range(heads):
                g = heads + h // (heads // groups)
                scores = np.exp([qkv[t, h] @ qkv[s, g] / math.sqrt(width) for s in range(t + 1)])
                out[t, h] = scores / scores.sum() @ qkv[: t + 1, g + groups]
        return linear(out.reshape(len(x), -1), f"{name}.c_proj")

    def mlp(x, name):
        up = linear(x, f"{name}.c_fc")
        if config["mlp"] == "swiglu":
            gate = linear(x, f"{name}.c_gate")
            hidden = gate / (1 + np.exp(-gate)) * up
        elif config["mlp"] == "gelu_erf":
            hidden = up * 0.5 * (1 + np.vectorize(math.erf)(up / math.sqrt(2)))
        else:
            hidden = up * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
        return linear(hidden, f"{name}.c_proj")

    x = w["wte.weight"][tokens]
    if config["positions"] == "learned":
        x = x + w["wpe.weight"][: len(tokens)]
    if config["positions"] == "sinusoidal":
        for t in range(len(tokens)):
            for i in range(0, config["embed_dim"], 2):
                angle = t / 10000 ** (i / config["embed_dim"])
                x[t, i] += math.sin(angle)
                x[t, i + 1] += math.cos(angle)
    for i in range(config["num_layers"]):
        x = x + attend(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn")
        x = x + mlp(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp")
    head = w["wte.weight"] if config["tie_head"] else w["lm_head.weight"]
    return norm(x, "ln_f") @ head.T


@pytest.mark.parametrize("name", FAMILY)
def test_logits_equal_plain_numpy(name: str) -> None:
    model = model_of(name)
    graph = pl.trace(model, pl.spec(("B", "T"), "i32"))
    wanted = np.stack([reference(model.state_dict(), model.config, row) for row in TOKENS])
    np.testing.assert_allclose(pl.interpret(graph, TOKENS), wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        pl.interpret(graph, TOKENS, dtype="f64"), wanted, rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(pl.interpret(graph, TOKENS[:1, :3]), wanted[:1, :3], atol=1e-4)


@pytest.mark.parametrize("name", FAMILY)
def test_native_logits_serve_every_length(name: str) -> None:
    model = model_of(name)
    program = pl.compile(model, pl.spec(("B", "T"), "i32"))
    for batch, length in ((2, 7), (1, 1), (3, 12)):
        tokens = np.resize(TOKENS, (batch, length))
        wanted = pl.interpret(pl.trace(model, tokens), tokens, dtype="f64")
        np.testing.assert_allclose(program(tokens), wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="at most 12"):
        program(np.zeros((1, 13), np.int32))
    with pytest.raises(IndexError, match="token id"):
        program(np.array([[1, 11]], np.int32))


@pytest.mark.parametrize("name", FAMILY)
def test_decoding_with_a_cache_equals_decoding_without(name: str) -> None:
    model = model_of(name)
    wanted = pl.interpret(pl.trace(model, TOKENS), TOKENS, dtype="f64")
    specs = model.cache_specs(2)
    prefill = pl.trace(model.decode_step, pl.spec((2, 4), "i32"), specs, pl.spec((), "i32"))
    step = pl.trace(model.decode_step, pl.spec(2, "i32"), specs, pl.spec((), "i32"), donate={1: 1})
    assert [n.attrs["name"] for n in step.inputs] == ["tokens", "k0", "v0", "k1", "v1", "pos"]
    assert step.aliases == ((1, 1), (2, 2), (3, 3), (4, 4))
    caches = [tuple(np.zeros(s.shape, np.float32) for s in pair) for pair in specs]
    logits, caches = pl.interpret(prefill, TOKENS[:, :4], caches, np.int32(0))
    np.testing.assert_allclose(logits, wanted[:, 3], rtol=1e-4, atol=1e-4)
    for t in range(4, 7):
        logits, caches = pl.interpret(step, TOKENS[:, t], caches, np.int32(t))
        np.testing.assert_allclose(logits, wanted[:, t], rtol=1e-4, atol=1e-4)


def test_last_logits_are_the_last_logits() -> None:
    model = model_of("gpt2")
    np.testing.assert_allclose(
        model.last_logits(TOKENS), model(TOKENS)[:, -1], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", FAMILY)
def test_gradients_equal_finite_differences(name: str) -> None:
    model = model_of(name)
    targets = np.roll(TOKENS, -1, axis=1)
    targets[0, -1] = -100
    graph = pl.trace(pl.value_and_grad(model.loss, wrt=model), TOKENS, targets)
    _, found = pl.interpret(graph, TOKENS, targets, dtype="f64")
    assert list(found) == list(model.state_dict())
    loss = pl.trace(model.loss, TOKENS, targets)
    rng = np.random.default_rng(5)
    for key in rng.choice(list(found), 8, replace=False):
        place = tuple(rng.integers(n) for n in found[key].shape)

        def loss_at(step: float, key: str = key, place: tuple = place) -> float:
            moved = {k: v.astype(np.float64) for k, v in loss.params.items()}
            moved[key][place] += step
            shifted = pl.Graph(loss.name, loss.inputs, loss.outputs, moved)
            return float(pl.interpret(shifted, TOKENS, targets, dtype="f64"))

        wanted = (loss_at(1e-6) - loss_at(-1e-6)) / 2e-6
        np.testing.assert_allclose(found[key][place], wanted, rtol=1e-3, atol=1e-5)


def test_gradients_with_symbolic_sizes() -> None:
    model = model_of("gpt2")
    targets = np.roll(TOKENS, -1, axis=1)
    two = [pl.spec(("B", "T"), "i32"), pl.spec(("B", "T"), "i32")]
    step = pl.value_and_grad(model.loss, wrt=model)
    loss, found = pl.interpret(pl.trace(step, *two), TOKENS, targets, dtype="f64")
    wanted_loss, wanted = pl.interpret(
        pl.trace(step, TOKENS, targets), TOKENS, targets, dtype="f64"
    )
    np.testing.assert_allclose(loss, wanted_loss)
    for key in wanted:
        np.testing.assert_allclose(found[key], wanted[key], rtol=1e-9, atol=1e-12)


def test_names_of_parameters_are_nanogpts() -> None:
    model = pl.TinyGPT(**{**SIZE, "num_layers": 1}, tie_head=False)
    layers = ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"]
    wanted = ["wte.weight", "wpe.weight"]
    wanted += [f"h.0.{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    wanted += ["ln_f.weight", "ln_f.bias", "lm_head.weight"]
    assert list(model.state_dict()) == wanted
    assert model.state_dict()["h.0.attn.c_attn.weight"].shape == (48, 16)
    graph = pl.trace(model.loss, pl.spec((1, 4), "i32"), pl.spec((1, 4), "i32"))
    assert set(graph.params) == set(wanted)
    assert pl.TinyGPT(65, 128, 4, 4, 64).count_parameters() == 809_856


def test_initial_weights_are_gpt2s_and_seeded() -> None:
    one, two, other = (pl.TinyGPT(65, seed=s).state_dict() for s in (0, 0, 1))
    assert all(np.array_equal(one[k], two[k]) for k in one)
    assert not np.array_equal(one["wte.weight"], other["wte.weight"])
    assert abs(one["h.0.mlp.c_fc.weight"].std() - 0.02) < 1e-3
    assert abs(one["h.0.mlp.c_proj.weight"].std() - 0.02 / math.sqrt(8)) < 5e-4
    assert not one["h.0.mlp.c_fc.bias"].any()
    tokens = np.random.default_rng(0).integers(0, 65, (4, 64))
    loss = float(pl.TinyGPT(65).loss(tokens[:, :-1], tokens[:, 1:]))
    assert abs(loss - math.log(65)) < 0.1


def test_dropout_acts_in_training_with_a_key() -> None:
    model = pl.TinyGPT(**{**SIZE, "dropout": 0.5})
    key = pl.random.key(1)
    plain, dropped = model(TOKENS), model(TOKENS, key=key)
    assert not np.allclose(plain, dropped)
    np.testing.assert_array_equal(model(TOKENS, key=key), dropped)
    np.testing.assert_array_equal(model.eval()(TOKENS, key=key), plain)
    quiet = pl.trace(lambda t, k: model(t, key=k), TOKENS, key)
    assert "dropout" not in {n.op.name for n in quiet.nodes}


def test_every_node_names_its_layer() -> None:
    graph = pl.trace(pl.TinyGPT(**SIZE), pl.spec(("B", "T"), "i32"))
    nodes = [n for n in graph.nodes if n.inputs]
    assert all(n.loc.file.endswith("tinygpt.py") for n in nodes)
    assert {n.loc.scope for n in nodes if n.op.name == "gelu"} == {"h.0.mlp", "h.1.mlp"}
    assert pl.parse(str(graph)) is not None


MISUSES = {
    "too long": (ValueError, lambda m: m(np.zeros((1, 13), np.int32)), "exceed max_seq_len=12"),
    "may be too long": (
        ValueError,
        lambda m: pl.trace(m, pl.spec((1, pl.Dim("T", max=13)), "i32")),
        "T tokens (up to 13) exceed max_seq_len=12",
    ),
    "float ids": (TypeError, lambda m: m(np.zeros((1, 3), np.float32)), "token ids are integers"),
    "bool ids": (TypeError, lambda m: m(np.zeros((1, 3), bool)), "token ids are integers"),
    "one axis": (ValueError, lambda m: m(np.zeros(3, np.int32)), "[batch, time]"),
    "token": (IndexError, lambda m: m(np.array([[3, 11]])), "token id 11 at position (0, 1)"),
    "negative token": (IndexError, lambda m: m(np.array([[-1]])), "token id -1"),
    "target": (IndexError, lambda m: m.loss(TOKENS, TOKENS + 11), "target"),
}


@pytest.mark.parametrize("name", MISUSES)
def test_misuse_is_refused(name: str) -> None:
    kind, call, words = MISUSES[name]
    with pytest.raises(kind) as caught:
        call(pl.TinyGPT(**SIZE))
    assert words in str(caught.value)


def test_a_wrong_configuration_is_refused_with_all_mistakes() -> None:
    with pytest.raises(ValueError) as caught:
        pl.TinyGPT(vocab_size=0, embed_dim=2.5, positions="absolute")
    assert str(caught.value) == (
        "TinyGPT: vocab_size is a positive integer, got 0; embed_dim is a positive integer, "
        "got 2.5; positions is one of learned, sinusoidal, rope, got 'absolute'"
    )
    with pytest.raises(ValueError, match="num_heads=3 does not divide embed_dim=128"):
        pl.TinyGPT(65, num_heads=3)


def test_the_repr_shows_what_is_special() -> None:
    assert repr(pl.TinyGPT(65, max_seq_len=64)) == (
        "TinyGPT(vocab_size=65, max_seq_len=64)  # 809,856 parameters"
    )
