"""Products of vectors, matrices and stacks of matrices."""

from __future__ import annotations

from typing import Any

from planish.frontend import shapes
from planish.frontend.tensor import apply
from planish.ir.dims import product
from planish.ir.errors import ShapeError
from planish.ir.ops.base import axis_of


def matmul(x1: Any, x2: Any, /) -> Any:
    """The matrix product; stacks of matrices broadcast, one axis means a vector."""
    return shapes.matmul(apply, x1, x2)


def dot(x1: Any, x2: Any, /) -> Any:
    """The matrix product, or the product with a scalar."""
    if not shapes.shape_of(x1) or not shapes.shape_of(x2):
        return apply("mul", x1, x2)
    return shapes.matmul(apply, x1, x2)


def vecdot(x1: Any, x2: Any, /, axis: int = -1) -> Any:
    """The sum of products along `axis`."""
    return shapes.reduce(apply, "sum", apply("mul", x1, x2), axis, False)


def outer(x1: Any, x2: Any, /) -> Any:
    """All products of an element of one vector and one of the other."""
    column = shapes.reshape(apply, x1, (-1, 1))
    return apply("mul", column, shapes.reshape(apply, x2, (1, -1)))


def tensordot(x1: Any, x2: Any, /, axes: Any = 2) -> Any:
    """The sum of products over `axes`: a count (the last of x1, the first of x2), or two lists."""
    a, b = list(shapes.shape_of(x1)), list(shapes.shape_of(x2))
    if isinstance(axes, int):
        first, second = list(range(len(a) - axes, len(a))), list(range(axes))
    else:
        first = [axis_of("tensordot", i, len(a)) for i in axes[0]]
        second = [axis_of("tensordot", i, len(b)) for i in axes[1]]
    summed = [a[i] for i in first]
    if summed != [b[i] for i in second]:
        raise ShapeError(f"tensordot over {axes}: sizes differ, {summed} of {a} and of {b}")
    rows = [i for i in range(len(a)) if i not in first]
    columns = [i for i in range(len(b)) if i not in second]
    left = shapes.transpose(apply, x1, [*rows, *first])
    right = shapes.transpose(apply, x2, [*second, *columns])
    count = product(summed)
    left = shapes.reshape(apply, left, (product(a[i] for i in rows), count))
    right = shapes.reshape(apply, right, (count, product(b[i] for i in columns)))
    shape = [*(a[i] for i in rows), *(b[i] for i in columns)]
    return shapes.reshape(apply, apply("matmul", left, right), shape)


def einsum(subscripts: str, /, *operands: Any) -> Any:
    """Einstein's summation of one or two arrays, as in "bhtd,bhsd->bhts"."""
    inputs, _, output = subscripts.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if "->" not in subscripts or len(terms) != len(operands) or len(terms) > 2:
        raise ShapeError(
            f"einsum {subscripts!r}: takes one or two arrays, and '->' with the result"
        )
    for term, x in zip(terms, operands, strict=True):
        if len(set(term)) != len(term) or len(term) != len(shapes.shape_of(x)):
            raise ShapeError(
                f"einsum {subscripts!r}: {term!r} must name each axis of "
                f"{list(shapes.shape_of(x))} once"
            )
    if len(terms) == 1:
        return _sum_to(operands[0], terms[0], output)
    return _contract(subscripts, terms[0], terms[1], output, *operands)


def _sum_to(x: Any, term: str, wanted: str) -> Any:
    """Sum the axes that are not wanted, and order those that are."""
    gone = tuple(i for i, letter in enumerate(term) if letter not in wanted)
    if gone:
        x = shapes.reduce(apply, "sum", x, gone, False)
    left = [letter for letter in term if letter in wanted]
    return shapes.transpose(apply, x, [left.index(letter) for letter in wanted])


def _contract(text: str, a: str, b: str, output: str, x: Any, y: Any) -> Any:
    """Two arrays: batch letters in both and the result, summed letters in both, the rest."""
    unknown = [letter for letter in output if letter not in a + b]
    if unknown or len(set(output)) != len(output):
        raise ShapeError(f"einsum {text!r}: the result names {output!r}, which the arrays do not")
    size = dict(zip(a, shapes.shape_of(x), strict=True))
    for letter, n in zip(b, shapes.shape_of(y), strict=True):
        if size.setdefault(letter, n) != n:
            raise ShapeError(f"einsum {text!r}: {letter} is {size[letter]} and {n}")
    batch = [c for c in a if c in b and c in output]
    summed = [c for c in a if c in b and c not in output]
    rows = [c for c in a if c not in b and c in output]
    columns = [c for c in b if c not in a and c in output]
    x = _sum_to(x, a, "".join([*batch, *rows, *summed]))
    y = _sum_to(y, b, "".join([*batch, *summed, *columns]))
    outer_shape = [size[c] for c in batch]
    m, k, n = (product(size[c] for c in part) for part in (rows, summed, columns))
    found = apply(
        "matmul",
        shapes.reshape(apply, x, (*outer_shape, m, k)),
        shapes.reshape(apply, y, (*outer_shape, k, n)),
    )
    letters = [*batch, *rows, *columns]
    found = shapes.reshape(apply, found, [size[c] for c in letters])
    return shapes.transpose(apply, found, [letters.index(c) for c in output])
