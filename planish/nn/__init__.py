"""`planish.nn`: layers by their PyTorch names; see `planish.frontend.nn`."""

from planish.frontend.nn import *  # noqa: F403
from planish.frontend.nn import __all__ as __all__
