"""Modules: layers that hold parameters and may hold other modules.

Parameters and modules are found among a module's attributes, in the order of their definition,
which is the order of the state dict. There is no registry: an attribute is all it takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from planish.frontend.context import current
from planish.frontend.tensor import Parameter
from planish.ir import types as t
from planish.ir.errors import DataError


class Module:
    """A layer. A subclass makes its parameters in `__init__` and computes in `forward`.

    >>> import numpy as np
    >>> from planish import nn
    >>> class Gate(nn.Module):
    ...     def __init__(self, width):
    ...         self.linear = nn.Linear(width, width)
    ...     def forward(self, x):
    ...         return x * nn.functional.sigmoid(self.linear(x))
    >>> list(Gate(4).state_dict())
    ['linear.weight', 'linear.bias']

    Called on NumPy arrays it computes at once, with the interpreter; `pl.compile(module, specs)`
    makes it native code.
    """

    training = True
    path = ""  # where this module sits in its model, such as h.3.mlp

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter):
            value.name = value.name or name
        elif isinstance(value, Module) and not value.path:  # else it has its place already
            for module in dict(value.named_modules()).values():
                module.__dict__["path"] = _joined(name, module.path)
            for _, parameter in value.named_parameters():
                parameter.name = _joined(name, parameter.name)
        object.__setattr__(self, name, value)

    def forward(self, *args: Any, **options: Any) -> Any:
        """What the module computes."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __call__(self, *args: Any, **options: Any) -> Any:
        trace = current()
        if trace is None:
            return self.forward(*args, **options)
        return trace.inside(self.path, lambda: self.forward(*args, **options))

    def children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the modules directly inside this one."""
        return ((name, x) for name, x in vars(self).items() if isinstance(x, Module))

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(path, module) of this module and of all inside it."""
        yield prefix, self
        for name, child in self.children():
            yield from child.named_modules(_joined(prefix, name))

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(path, parameter) of all parameters, each once, in the order of their definition."""
        seen: set[int] = set()
        for path, x in self._all_parameters(""):
            if id(x) not in seen:
                seen.add(id(x))
                yield path, x

    def _all_parameters(self, prefix: str) -> Iterator[tuple[str, Parameter]]:
        for name, x in vars(self).items():
            if isinstance(x, Parameter):
                yield _joined(prefix, name), x
            elif isinstance(x, Module):
                yield from x._all_parameters(_joined(prefix, name))

    def parameters(self) -> list[Parameter]:
        """All parameters, without paths: these take longer, and each text asks for parameters."""
        found: dict[int, Parameter] = {}
        self._gather(found)
        return [*found.values()]

    def _gather(self, found: dict[int, Parameter]) -> None:
        for x in self.__dict__.values():
            if isinstance(x, Parameter):
                found.setdefault(id(x), x)
            elif isinstance(x, Module):
                x._gather(found)

    def count_parameters(self) -> int:
        """How many numbers the parameters hold."""
        return sum(x.array.size for x in self.parameters())

    def train(self, mode: bool = True) -> Module:
        """Turn dropout on for traces to come; returns the module."""
        for _, module in self.named_modules():
            module.__dict__["training"] = mode
        return self

    def eval(self) -> Module:
        """Turn dropout off for traces to come; returns the module."""
        return self.train(False)

    def state_dict(self) -> dict[str, np.ndarray]:
        """The parameters' arrays by name, read-only and not copied."""
        return {name: x.array for name, x in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Replace all parameters; on any mistake DataError lists all and nothing is replaced.

        Floats of another width are converted. `strict=False` lets names be missing or extra.
        """
        own = dict(self.named_parameters())
        wrong = [f"missing: {name}" for name in own if name not in state] if strict else []
        wrong += [f"unexpected: {name}" for name in state if name not in own] if strict else []
        arrays = {}
        for name in own.keys() & state.keys():
            array = np.asarray(state[name])
            wrong += _mistakes(name, own[name], array)
            arrays[name] = array
        if wrong:
            listed = "\n  ".join(sorted(wrong))
            raise DataError(f"the state does not fit {type(self).__name__}:\n  {listed}")
        for name, array in arrays.items():
            wanted = own[name].dtype
            own[name].array = array.astype(wanted, copy=array.flags.writeable)

    def __repr__(self) -> str:
        inside = [f"  ({name}): " + repr(x).replace("\n", "\n  ") for name, x in self.children()]
        body = "\n" + "\n".join(inside) + "\n" if inside else self.extra_repr()
        return f"{type(self).__name__}({body})"

    def extra_repr(self) -> str:
        """What the repr of a module without children says of it."""
        return ", ".join(
            f"{n}: {x.type}" for n, x in vars(self).items() if isinstance(x, Parameter)
        )


def _mistakes(name: str, own: Parameter, array: np.ndarray) -> list[str]:
    """Why `array` cannot become the parameter `own`."""
    if array.shape != own.array.shape:
        return [f"wrong shape: {name} is {list(own.array.shape)}, got {list(array.shape)}"]
    found = t.dtype(array.dtype)
    if found.is_float != t.dtype(own.dtype).is_float:
        return [f"wrong dtype: {name} is {own.dtype}, got {found}"]
    return []


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix or name


class ModuleList(Module):
    """Modules in a list; their names are 0, 1, 2 ..."""

    def __init__(self, modules: Any = ()):
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> None:
        """Add a module at the end."""
        setattr(self, str(len(self)), module)

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __iter__(self) -> Iterator[Module]:
        return (module for _, module in self.children())

    def __getitem__(self, index: int) -> Module:
        return list(self)[index]


class Sequential(ModuleList):
    """Modules (or plain functions) one after another."""

    def __init__(self, *modules: Any):
        super().__init__(x if isinstance(x, Module) else Lambda(x) for x in modules)

    def forward(self, x: Any) -> Any:
        """The last module's result."""
        for module in self:
            x = module(x)
        return x


class Lambda(Module):
    """A function as a module."""

    def __init__(self, function: Any):
        self.function = function

    def forward(self, *args: Any, **options: Any) -> Any:
        """The function's result."""
        return self.function(*args, **options)

    def extra_repr(self) -> str:
        """The function's name."""
        return str(getattr(self.function, "__name__", self.function))
