"""The C header of host code: its exported functions and what stands in their docstrings."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from planish.ir.errors import CompileError
from planish.runtime.host.compiler import PREFIX, Source

WIDTH = 88
_BITS = (8, 16, 32, 64)
NAMES = {
    **{f"i{bits}": f"int{bits}_t" for bits in _BITS},
    **{f"u{bits}": f"uint{bits}_t" for bits in _BITS},
    "f32": "float", "f64": "double",
}  # fmt: skip

_HEAD = """/* {title}

   Made by planish; the functions are in the library or object file of the same name. Every call
   returns; nothing aborts, and there is no global state. Pointers are valid, but where NULL
   is named.
*/
#ifndef {guard}
#define {guard}

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define {upper}ABI {abi}

enum {{
{codes}
}};

typedef struct {prefix}model {prefix}model;
"""
_TAIL = """
#ifdef __cplusplus
}
#endif

#endif
"""


def header_text(
    sources: Iterable[Source], title: str, codes: Sequence[tuple[str, int]], abi: int, prefix: str
) -> str:
    """A C header for the exported functions of host code.

    Records that they take are structs; the record Model is only ever handled by its address.
    """
    parsed = [ast.parse(x.text) for x in sources]
    items = [item for module in parsed for item in module.body]
    classes = {x.name: x for x in items if isinstance(x, ast.ClassDef)}
    exports = [x for x in items if isinstance(x, ast.FunctionDef) and _is_export(x)]
    upper = prefix.upper()
    listed = ",\n".join(f"    {upper}{name} = {number}" for name, number in codes)
    guard = re.sub(r"\W", "_", f"{upper}H")
    text = [
        _HEAD.format(title=title, codes=listed, guard=guard, upper=upper, abi=abi, prefix=prefix)
    ]
    text += [_struct(x, classes, prefix) for x in classes.values() if _is_taken(x.name, exports)]
    text += [_function(x, classes, prefix) for x in exports]
    return "\n".join(text) + _TAIL


def _is_export(item: ast.FunctionDef) -> bool:
    marked = any(ast.unparse(x) == "export" for x in item.decorator_list)
    return marked and item.name.startswith(PREFIX)


def _is_taken(record: str, exports: Sequence[ast.FunctionDef]) -> bool:
    """Whether users make such records themselves."""
    names = {ast.unparse(a.annotation) for x in exports for a in x.args.args if a.annotation}
    return record in names and record != "Model"


def _struct(item: ast.ClassDef, classes: Mapping[str, ast.ClassDef], prefix: str) -> str:
    lines = [_comment(item, prefix), "typedef struct {"]
    for field in item.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            lines.append(f"    {_typed(field.annotation, field.target.id, classes, prefix)};")
    return "\n".join([*lines, f"}} {prefix}{item.name.lower()};"]) + "\n"


def _function(item: ast.FunctionDef, classes: Mapping[str, ast.ClassDef], prefix: str) -> str:
    taken = [_typed(x.annotation, x.arg, classes, prefix) for x in item.args.args]
    name = prefix + item.name.removeprefix(PREFIX)
    result = _typed(item.returns, name, classes, prefix)
    text = f"{result}({', '.join(taken) or 'void'});"
    if len(text) > WIDTH:
        text = f"{result}(\n    {_lines(taken)});"
    return f"{_comment(item, prefix)}\n{text}\n"


def _lines(taken: Sequence[str]) -> str:
    """Parameters in lines, none of them cut."""
    joined = ", ".join(x.replace(" ", "\0") for x in taken)
    filled = textwrap.fill(joined, WIDTH - 4, break_long_words=False, break_on_hyphens=False)
    return filled.replace("\n", "\n    ").replace("\0", " ")


def _comment(item: ast.FunctionDef | ast.ClassDef, prefix: str) -> str:
    """What a docstring says, of the names that stand in this header."""
    text = (ast.get_docstring(item) or "").replace(PREFIX, prefix)
    # the variable of the environment is the same for all
    text = re.sub(rf"{PREFIX.upper()}(?!LEVEL\b)", prefix.upper(), text)
    return f"/* {textwrap.indent(text, '   ').strip()} */"


def _typed(
    node: ast.expr | None, name: str, classes: Mapping[str, ast.ClassDef], prefix: str
) -> str:
    """A declaration of C: `const char *weights`."""
    match node:
        case ast.Constant(None):
            return f"void {name}"
        case ast.Name("Text"):
            return f"const char *{name}"
        case ast.Name("Memory"):
            return f"void *{name}"
        case ast.Name(known) if known in NAMES:
            return f"{NAMES[known]} {name}"
        case ast.Name(known) if known in classes:
            return f"{prefix}{known.lower()} *{name}"
        case ast.Subscript(ast.Name("Const"), element):
            return f"const {_typed(element, f'*{name}', classes, prefix)}"
        case ast.Subscript(ast.Name("Ptr"), ast.Name("u8")):
            return f"char *{name}"
        case ast.Subscript(ast.Name("Ptr"), element):
            return _typed(element, f"*{name}", classes, prefix)
        case ast.Subscript(ast.Name("Callable"), ast.Tuple([ast.List(params), result])):
            given = ", ".join(_typed(x, "", classes, prefix).strip() for x in params)
            return _typed(result, f"(*{name})({given})", classes, prefix)
    raise CompileError(f"{name}: C has no {'type' if node is None else ast.unparse(node)}")
