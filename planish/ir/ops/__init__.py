"""All ops, grouped in files by kind; importing this package fills the op table."""
from planish.ir.ops import elementwise, leaf  # noqa: F401
