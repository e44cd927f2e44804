"""Layers by their PyTorch names; `nn.functional` has the same as functions."""

from planish.frontend.nn import functional
from planish.frontend.nn.layers import (
    GELU,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    MSELoss,
    ReLU,
    RMSNorm,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)  # fmt: skip
from planish.frontend.nn.module import Lambda, Module, ModuleList, Sequential
from planish.frontend.nn.transformer import MLP, MultiHeadAttention, TransformerBlock
from planish.frontend.tensor import Parameter

__all__ = [
    "GELU", "MLP", "BCEWithLogitsLoss", "CrossEntropyLoss", "Dropout", "Embedding", "Lambda",
    "LayerNorm", "Linear", "MSELoss", "Module", "ModuleList", "MultiHeadAttention", "Parameter",
    "RMSNorm", "ReLU", "Sequential", "SiLU", "Sigmoid", "Softmax", "Tanh", "TransformerBlock",
    "functional",
]  # fmt: skip
