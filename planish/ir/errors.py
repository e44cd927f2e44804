"""Every exception that planish raises on purpose.

All derive from `PlanishError` and, so that callers who do not know planish can catch them, from
the builtin that fits: `ValueError`, `TypeError`, `IndexError` ... A message says what was
expected, what was found, where, and what to do next.
"""


class PlanishError(Exception):
    """Base of all errors of planish."""


class TraceError(PlanishError, TypeError):
    """The traced function asked for something that has no value while tracing."""


class ShapeError(PlanishError, ValueError):
    """Sizes do not fit together; the message names both shapes."""


class AxisError(ShapeError, IndexError):
    """An axis or a static index is outside its range."""


class SizeError(ShapeError, MemoryError):
    """A run needs more memory than this machine has; nothing has been allocated."""


class DTypeError(PlanishError, TypeError):
    """A dtype is unknown, unsupported, or does not fit its partner."""


class IRError(PlanishError, ValueError):
    """A graph or a loop nest breaks a rule of its IR."""


class ParseError(PlanishError, ValueError):
    """IR text or pipeline text cannot be read; the message has line, column and a suggestion."""


class GradientError(PlanishError, TypeError):
    """A gradient was asked for that does not exist."""


class CompileError(PlanishError, RuntimeError):
    """The compiler failed through its own fault."""


class LinkError(PlanishError, OSError):
    """There is no linker, or it failed."""


class TargetError(PlanishError, RuntimeError):
    """The machine cannot run what was asked."""


class ArtifactError(PlanishError, ValueError):
    """A file is not what it claims to be."""


class DataError(PlanishError, ValueError):
    """A text, a token or an array given at run time is not usable."""


class TokenError(DataError, IndexError):
    """An index (token id, target id, gather index) is outside its table."""


class UnsupportedError(PlanishError, NotImplementedError):
    """Known, reasonable, and not provided; the message says what is."""
