"""What the parser refuses, with which words, and where it is lenient."""

import numpy as np
import pytest

from planish.ir.errors import DataError, ParseError, PlanishError
from planish.ir.evaluate import evaluate
from planish.ir.parse import parse

HEAD = "graph f(%x: f32[2]) {\n  "
TAIL = "\n  return %0\n}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1: expected 'graph', got end of text"),
        ("grph f() {}", "line 1, column 1: expected 'graph', got grph (did you mean 'graph'?)"),
        ("graph f(%x: f32[2]) { $", "line 1, column 23: unexpected '$'"),
        ("graph f() {\n  retrun %0\n}", "line 2, column 3: expected a line '%0 = ...' or "
         "'return', got retrun (did you mean 'return'?)"),
        ("graph f(%x: f31[2]) {", "line 1, column 13: unknown dtype 'f31' (did you mean 'f32'?)"),
        ("graph f(%x: f32[K]) {", ("line 1, column 17: size 'K' is not declared; "
         "declare it as in graph f[K](...)")),
        ("graph f[Len](%x: f32[Lem]) {", "size 'Lem' is not declared (did you mean 'Len'?)"),
        ("graph f[T<=0]() {", "line 1, column 9: dimension T: max must be at least 1, got 0"),
        ("graph f(%x: f32[2] donate=1) { return %x }", "donate=1, but there are 1 outputs"),
        ("graph f(%x: f32[2], %x: f32[2]) {", "line 1, column 21: %x is defined twice"),
        ("graph f() { return }\ngraph f() { return }\ngraph g() { return }",
         "line 2, column 1: graph f is defined twice"),
        ('graph "\\q"() {', "line 1, column 7: bad string"),
        (HEAD + "%0 = tanhh(%x) : f32[2]" + TAIL,
         "line 2, column 8: unknown op 'tanhh' (did you mean 'tanh'?)"),
        (HEAD + "%0 = input : f32[2]" + TAIL, "inputs stand in the signature"),
        (HEAD + "%0 = tanh(%y) : f32[2]" + TAIL, "line 2, column 13: %y is not defined"),
        (HEAD + "%0 = tanh(%1)\n%1 = tanh(%x)" + TAIL, "%1 is used before it is defined"),
        (HEAD + "%0 = tanh(%x) : f32[3]" + TAIL,
         "line 2, column 19: tanh gives f32[2], the text says f32[3]"),
        (HEAD + "%0 = tanh(%x, %x) : f32[2]" + TAIL, "line 2, column 8: tanh takes 1 operands"),
        (HEAD + "%0 = tanh(%x, axis=1)" + TAIL, "'axis' is no attribute of tanh"),
        (HEAD + "%0 = size(sise=1)" + TAIL,
         "'sise' is no attribute of size (did you mean 'size'?)"),
        (HEAD + "%0 = size(size=1, size=1)" + TAIL, "'size' is given twice"),
        (HEAD + "%0 = size(size=(1))" + TAIL, "a tuple of one is written (x,)"),
        (HEAD + "%0 = size()" + TAIL, "size needs 'size'"),
        (HEAD + "%0 = fused @g(%x)" + TAIL, "no graph @g above"),
        (HEAD + "%0 = const 1 : f32[2]" + TAIL, "a const is a scalar, not f32[2]"),
        (HEAD + "%0 = const 1.5 : i32[]" + TAIL, "const 1.5 is not a i32"),
        (HEAD + "%0 = const " + "9" * 5000 + " : i64[]" + TAIL, "expected a whole number, got 999"),
        (HEAD + "%0 = const " + "(" * 5000 + TAIL, "more than 32 nested tuples"),
        (HEAD + "%0 = const -True : i32[]" + TAIL, "size 'True' is not declared"),
    ],
)  # fmt: skip
def test_refusals_say_line_column_and_what_to_do(text, message):
    with pytest.raises(ParseError) as info:
        parse(text)
    assert message in str(info.value)


def test_every_cut_of_a_text_is_refused_cleanly():
    text = (
        'graph g[T<=4](%a: f32[T]) {\n  return %a\n}\n\ngraph "f \\n"[T<=4](%x: f32[T] donate=0) '
        "-> (a,) {\n  %c0 = const -1.5e-3 : f32[]\n  %w = param : f32[1]\n"
        "  %0 = fused @g(%x) : f32[T]  # m.py:3 h\n  %1 = add(%0, %c0) : f32[T]\n  return %1\n}"
    )
    whole = parse(text)
    for end in range(len(text)):
        try:
            assert parse(text[:end]).name == "g"
        except ParseError:
            continue
    for at in range(len(text)):
        for odd in "\0%@({":
            try:
                parse(text[:at] + odd + text[at + 1 :])
            except PlanishError as error:
                assert isinstance(error, ParseError)
    assert whole.name == "f \n"


def test_types_may_be_left_out_and_comments_are_skipped():
    g = parse(
        "# a case\ngraph f(%x: f32[2]) { # note\n  %a = tanh(%x)\n  %b = add(%a, %x)  return %b\n}"
    )
    assert str(g).splitlines()[2] == "  %1 = add(%0, %x) : f32[2]"
    assert g.outputs[0].loc is None


def test_weights_are_given_by_name_or_missed_when_run():
    text = "graph f() {\n  %w = param : f32[2]\n  %0 = tanh(%w) : f32[2]\n  return %0\n}"
    with pytest.raises(DataError, match="param 'w' has no array"):
        evaluate(parse(text))
    (y,) = evaluate(parse(text, {"w": np.zeros(2, np.float32)}))
    assert y.tolist() == [0, 0]
