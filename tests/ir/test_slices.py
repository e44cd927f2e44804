"""Slices at run-time starts: where they may begin, for all rows or for each."""

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.errors import DTypeError, ShapeError, TokenError
from planish.ir.node import OPS
from tests.ir.test_ops_nn import arg, floats, run


@pytest.mark.parametrize("start", [-1, 3, 2**40])
def test_run_time_slices_never_move_or_cut(start):
    message = f"axis 0 start {start} is outside 0 <= start < 3"
    with pytest.raises(TokenError, match=message):
        run("dynamic_slice", floats(5), np.int64(start), sizes=(3,))
    with pytest.raises(TokenError, match=message):
        run("update_slice", floats(5), floats(3), np.int64(start))


def test_each_row_of_a_slice_has_its_own_start():
    x, at = floats(3, 5), np.array([2, 0], np.int32)
    found = run("dynamic_slice", x, np.int32(1), at, sizes=(2, 3))
    np.testing.assert_array_equal(found, [x[1, 2:5], x[2, :3]])
    with pytest.raises(TokenError, match=r"axis 1 start 3 at position \(1,\) is outside"):
        run("update_slice", x, floats(2, 3), np.int32(0), np.array([0, 3]))
    for starts in ((arg(t.i32, 2), 0), (0, arg(t.i32, 3))):
        with pytest.raises(DTypeError, match=r"a start is an integer scalar.*, got i32"):
            OPS["dynamic_slice"](arg(t.f32, 3, 5), *starts, sizes=(2, 3))


def test_slices_too_large_for_the_operand_are_refused():
    with pytest.raises(ShapeError, match=r"does not fit into f32.5."):
        OPS["dynamic_slice"](arg(t.f32, 5), 0, sizes=(6,))
    with pytest.raises(ShapeError, match="takes 2 starts and sizes, got 1 and 2"):
        OPS["update_slice"](arg(t.f32, 5, 5), arg(t.f32, 2, 2), 0)
