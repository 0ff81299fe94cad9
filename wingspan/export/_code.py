"""Python that turns one module into another of the same library: an assignment for everything that differs, weights aside."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from wingspan.errors import UserError
from wingspan.width import plain

PLAIN: tuple[type[nn.Module], ...] = (plain.Residual, plain.Halves, plain.Scale, plain.Nothing)
_SIMPLE = (bool, int, float, str, type(None))


@dataclass
class Code:
    """Lines that make `target` out of `base`, which they call `model`; `needed` are classes of ours that they use.

    A module that only changed its size gets tensors of the new one; a module of PyTorch's is made anew; a module of the library
    that moved (into a `Residual`) is taken from where something else came, by a name given before anything changes.
    Raises UserError for a module that is not to be had so.
    """

    base: nn.Module
    target: nn.Module
    held: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    needed: set[type[nn.Module]] = field(default_factory=set)
    _waiting: list[_Moved] = field(default_factory=list)
    _free: list[nn.Module] = field(default_factory=list)  # of the base: what something else replaced
    _taken: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._compare("model", self.base, self.target)
        while self._waiting:
            self._settle()

    @property
    def lines(self) -> list[str]:
        return [*self.held, *self.changes]

    @property
    def sources(self) -> list[str]:
        return [inspect.getsource(each).rstrip() for each in PLAIN if each in self.needed]

    def _compare(self, place: str, theirs: nn.Module, ours: nn.Module) -> None:
        """Two modules of one class: settings, sizes, and children."""
        self.changes += [f"{place}.{name} = {value}" for name, value in _settings(theirs, ours).items()]
        for name in dict.fromkeys([*theirs._modules, *ours._modules]):
            was, is_ = theirs._modules.get(name), ours._modules.get(name)
            here = _path(place, name)
            if is_ is None and was is None:
                continue
            if is_ is not None and was is not None and not _another(was, is_):
                if of_torch(is_) is None:
                    self._compare(here, was, is_)
                continue
            if was is not None:
                self._free.append(was)
                self._taken -= _all(was)
            self.changes.append(f"{here} = {self._made(is_, name)}")

    def _made(self, module: nn.Module | None, called: str) -> str:
        """An expression for a module."""
        known = "None" if module is None else of_torch(module)
        if module is None or known is not None:
            return str(known)
        if isinstance(module, plain.Scale):
            self.needed.add(plain.Scale)
            return f"Scale(torch.ones({_shape(module.weight)}))"
        if type(module) not in (*PLAIN, nn.Sequential):
            self._waiting.append(_Moved(f"part{len(self._waiting) + len(self.held) + 1}", called, module))
            return self._waiting[-1].name
        parts = {name: self._made(each, name) for name, each in module.named_children()}
        if type(module) in PLAIN:
            self.needed.add(type(module))
            return f"{type(module).__name__}({', '.join(parts.values())})"
        if all(name.isdigit() for name in parts):
            return f"nn.Sequential({', '.join(parts.values())})"
        return f"nn.Sequential(OrderedDict({', '.join(f'{name}={part}' for name, part in parts.items())}))"

    def _settle(self) -> None:
        """Find what one of the waiting modules was: a whole that was replaced, before something inside of one."""
        paths = {id(module): path for path, module in self.base.named_modules()}
        for inside in (False, True):
            free = [each for root in self._free for each in (root.modules() if inside else [root])]
            pairs = [
                (paths[id(each)].endswith(moved.called), _alike(each, moved.module), at, -index)
                for at, each in enumerate(free)
                for index, moved in enumerate(self._waiting)
                if type(each) is type(moved.module) and not _all(each) & self._taken
            ]
            if pairs:
                _, _, at, index = max(pairs)
                moved, was = self._waiting.pop(-index), free[at]
                self._taken |= _all(was)
                self.held.append(f"{moved.name} = {functools.reduce(_path, paths[id(was)].split('.'), 'model')}")
                self._compare(moved.name, was, moved.module)
                return
        raise UserError(
            f"{type(self._waiting[0].module).__name__} '{self._waiting[0].called}' of this network has no counterpart in "
            "timm's model, so code for it cannot be written. Try --to onnx or --to torch.export."
        )


@dataclass(frozen=True)
class _Moved:
    """A module of the library in a new place: its name in the code, and what it is called in the network."""

    name: str
    called: str
    module: nn.Module


def _path(place: str, name: str) -> str:
    return f"{place}[{name}]" if name.isdigit() else f"{place}.{name}"


def _all(module: nn.Module) -> set[int]:
    return {id(each) for each in module.modules()}


def _another(was: nn.Module, is_: nn.Module) -> bool:
    """Whether a module must be made anew instead of changed."""
    new = of_torch(is_)
    if new is not None or of_torch(was) is not None:
        return new != of_torch(was)
    return type(was) is not type(is_) or (type(is_) is nn.Sequential and [*was._modules] != [*is_._modules])


def _alike(one: nn.Module, other: nn.Module) -> int:
    """How many weights have the same name and shape."""
    shapes = {name: value.shape for name, value in one.state_dict().items()}
    return sum(shapes.get(name) == value.shape for name, value in other.state_dict().items())


def _settings(theirs: nn.Module, ours: nn.Module) -> dict[str, str]:
    """Attribute -> expression, for numbers, words, and tensors of another size that a module itself holds."""
    found = {}
    for name, value in vars(ours).items():
        if not name.startswith("_") and name != "training" and name in vars(theirs) and _is_simple(value):
            was = vars(theirs)[name]
            if _is_simple(was) and was != value:
                found[name] = repr(value)
    for name, tensor in _own(ours).items():
        before = _own(theirs).get(name)
        if before is None or before.shape != tensor.shape:
            empty = f"torch.empty({_shape(tensor)})"
            found[name] = f"nn.Parameter({empty})" if isinstance(tensor, nn.Parameter) else empty
    return found | {name: "None" for name in _own(theirs) if name not in _own(ours)}


def _own(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}


def _shape(tensor: Tensor) -> str:
    return ", ".join(map(str, tensor.shape)) or "()"


def _is_simple(value: object) -> bool:
    return isinstance(value, _SIMPLE) or (isinstance(value, tuple) and all(isinstance(each, _SIMPLE) for each in value))


# ---------------------------------------------------------------------------------------------------- PyTorch's own modules


def of_torch(module: nn.Module) -> str | None:
    """An expression for one of PyTorch's plain layers; None for everything else."""
    for kind, written in _WRITTEN.items():
        if isinstance(module, kind) and type(module).forward is kind.forward:
            return written(module)
    return None


def _call(name: str, *given: Any, **named: tuple[Any, Any]) -> str:
    """`name(given, key=value)` with what differs from its default: key -> (value, default)."""
    words = [*map(repr, given), *(f"{key}={value!r}" for key, (value, default) in named.items() if value != default)]
    return f"nn.{name}({', '.join(words)})"


def _conv(conv: Any) -> str:
    def short(pair: Any) -> Any:
        return pair[0] if isinstance(pair, tuple) and pair[0] == pair[1] else pair

    return _call(
        "Conv2d", conv.in_channels, conv.out_channels, short(conv.kernel_size), stride=(short(conv.stride), 1),
        padding=(short(conv.padding), 0), dilation=(short(conv.dilation), 1), groups=(conv.groups, 1),
        bias=(conv.bias is not None, True), padding_mode=(conv.padding_mode, "zeros"),
    )  # fmt: skip


def _batch_norm(norm: Any) -> str:
    return _call(
        "BatchNorm2d", norm.num_features, eps=(norm.eps, 1e-5), momentum=(norm.momentum, 0.1), affine=(norm.affine, True),
        track_running_stats=(norm.track_running_stats, True),
    )  # fmt: skip


def _layer_norm(norm: Any) -> str:
    bias = not norm.elementwise_affine or norm.bias is not None
    return _call(
        "LayerNorm", norm.normalized_shape, eps=(norm.eps, 1e-5), elementwise_affine=(norm.elementwise_affine, True),
        bias=(bias, True),
    )  # fmt: skip


_WRITTEN: Mapping[type[nn.Module], Callable[[Any], str]] = {
    nn.Conv2d: _conv,
    nn.Linear: lambda layer: _call("Linear", layer.in_features, layer.out_features, bias=(layer.bias is not None, True)),
    nn.BatchNorm2d: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.ReLU: lambda layer: _call("ReLU", inplace=(layer.inplace, False)),
    nn.GELU: lambda layer: _call("GELU", approximate=(layer.approximate, "none")),
    nn.Identity: lambda _: "nn.Identity()",
    nn.Dropout: lambda layer: _call("Dropout", layer.p),
}
