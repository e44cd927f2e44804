"""`planish.nn.functional`: layers as functions; see `planish.frontend.nn.functional`."""

from planish.frontend.nn.functional import *  # noqa: F403
