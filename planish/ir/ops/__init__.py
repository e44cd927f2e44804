"""All ops, grouped in files by kind; importing this package fills the op table."""

from planish.ir.ops import (  # noqa: F401  # noqa: F401  # noqa: F401  # noqa: F401
    activation,
    attention,
    attention_grad,
    elementwise,
    gather,
    indexing,
    leaf,
    linalg,
    loss,
    norm,
    quantize,
    ragged,
    random,
    reduction,
    rope,
    sampling,
    softmax,
    sparse,
    timing,
    view,
)
