"""All ops, grouped in files by kind; importing this package fills the op table."""
from planish.ir.ops import elementwise, leaf  # noqa: F401
from planish.ir.ops import activation, attention, gather, indexing, linalg  # noqa: F401
from planish.ir.ops import loss, norm, rope, sampling, softmax  # noqa: F401
from planish.ir.ops import random, reduction, view  # noqa: F401
