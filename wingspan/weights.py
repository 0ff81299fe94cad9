"""Weights in files, and whether they fit: our checkpoints, and what other libraries save."""

from __future__ import annotations

import argparse
import pickle
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from wingspan.errors import UserError, nearest
from wingspan.runs import DamagedError

Shape = tuple[int, ...]
_TWINS = ("encoder_k", "momentum", "target", "student")  # where a file holds two networks, the other is evaluated
_AVERAGE = re.compile(r"(^|[._])ema([._]|$)")
_CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}  # as torchvision orders them
_PARTS = {number: part for part, number in _CHILDREN.items()}
_MADE_AGAIN = ("num_batches_tracked", "relative_position_index", "relative_coords_table", "attn_mask")  # follow from the rest


def read_weights(module: nn.Module, file: Path, prefix: str = "backbone.") -> None:
    """Fill a module from a checkpoint's weights. Raises UserError listing what does not fit."""
    try:
        with safetensors.safe_open(file, "pt") as opened:
            names = opened.keys()
            weights = {name.removeprefix(prefix): opened.get_tensor(name) for name in names if name.startswith(prefix)}
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{file} cannot be read as weights: {error}") from error
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = [
        f"{name}: {found.get(name, 'absent')} found, {wanted.get(name, 'nothing')} expected"
        for name in sorted({*wanted, *found})
        if wanted.get(name) != found.get(name)
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"{file} holds another {prefix.strip('.')} than was asked for ({'; '.join(wrong[:3])}{more}). "
            "Give the width and architecture it was trained with."
        )
    module.load_state_dict(weights)


def opened(file: Path) -> Any:
    """What a checkpoint's file holds: tensors by name (.safetensors), or what torch.save wrote of tensors and plain values.

    Nothing in it is carried out. Raises DamagedError for a file that is cut, overwritten or gone, and UserError for one that
    holds more than such values: we write none of those, so that it is no damage of ours, and going on would be no answer.
    """
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(_more_than_tensors(file)) from error
    except PermissionError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error
    except (OSError, EOFError, LookupError, RuntimeError, ValueError, safetensors.SafetensorError) as error:
        if file.suffix == ".safetensors" and _is_pickle(file):
            raise UserError(_more_than_tensors(file)) from error
        raise DamagedError(f"{file} is damaged: {(str(error).strip() or 'it ends too early').splitlines()[0]}") from error


def _is_pickle(file: Path) -> bool:
    """Whether it begins as a pickle does, plain or in torch.save's archive. Some safetensors files do, too: ask after these."""
    try:
        with file.open("rb") as held:
            first = held.read(4)
    except OSError:
        return False
    return first == b"PK\x03\x04" or (first[:1] == b"\x80" and first[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"})


def _more_than_tensors(file: Path) -> str:
    return (
        f"{file} holds more than tensors and is not opened, since that could run code: Wingspan writes no such file. Find out "
        f"where it comes from, then remove {file.parent} to go on from the checkpoint before."
    )


def read(file: Path) -> dict[str, Tensor]:
    """Every tensor in a file, by its name: .safetensors, or what torch.save wrote (nothing in it is carried out).

    Of a checkpoint that holds dictionaries (`state_dict`, `model`, `teacher`, ...) the names begin with theirs. Raises
    UserError for a file that cannot be read, or holds no tensor.
    """
    try:
        if file.suffix == ".safetensors":
            found = dict(safetensors.torch.load_file(file))
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # a bag of options, beside many a checkpoint's weights
                found = dict(_flat(torch.load(file, map_location="cpu", weights_only=True), ""))
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file} holds more than weights and is not opened, since that could run code. Where you trust it: "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=False)['state_dict'], 'x.safetensors')."
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{file} cannot be read as weights: {error}") from error
    if not found:
        raise UserError(f"{file} holds no weights.")
    return found


def _flat(value: Any, name: str) -> Sequence[tuple[str, Tensor]]:
    """Tensors of nested dictionaries, by their path."""
    if isinstance(value, Tensor):
        return [(name, value)]
    if not isinstance(value, Mapping):
        return []
    return [pair for key, item in value.items() for pair in _flat(item, f"{name}.{key}" if name else str(key))]


def fitted(found: Mapping[str, Tensor], wanted: Mapping[str, Shape], where: str) -> dict[str, Tensor]:
    """The tensors that a module of these names and shapes wants, out of a file that may hold more.

    The names may stand behind any one prefix (`module.encoder_q.`, `teacher.backbone.`): that under which most are there. Of
    two equal networks it is the one its authors evaluate: MoCo's query encoder, the online network, DINO's teacher, an
    average (`state_dict_ema`). A ResNet's parts may be numbered, as in a Sequential of its children. A batch norm's count of
    batches may be missing. Raises UserError naming what is missing, has another shape, or shows that the file's blocks are
    more, or hold more, than the module's.
    """
    here, prefix = _under(found, wanted)
    made: dict[str, Tensor] = {}
    wrong: list[str] = []
    for name, shape in wanted.items():
        value = here.get(name)
        if value is None and name.endswith("num_batches_tracked"):
            made[name] = torch.zeros((), dtype=torch.int64)
        elif value is None:
            wrong.append(f"{name} is not there{nearest(name, here)}" if not wrong else f"{name} is not there")
        elif tuple(value.shape) != shape:
            wrong.append(f"{name}: {tuple(value.shape)} found, {shape} wanted")
        else:
            made[name] = value
    wrong += [f"{name} is one too many" for name in _too_many(here, wanted)]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        behind = f" behind '{prefix}'" if prefix else ""
        raise UserError(
            f"{where} holds another network: of {len(wanted)} weights {len(made)} fit{behind}; {'; '.join(wrong[:3])}{more}. "
            "Name the backbone these weights are of (--backbone, --backbone.timm, --backbone.stem)."
        )
    return made


def _under(found: Mapping[str, Tensor], wanted: Mapping[str, Shape]) -> tuple[dict[str, Tensor], str]:
    """The file's tensors behind the prefix where most of the wanted names are, by those names; and that prefix."""
    names = {name: name for name in wanted}
    if "layer1" in {name.partition(".")[0] for name in wanted}:
        names |= {_numbered(name): name for name in wanted}
    counts: Counter[str] = Counter()
    for name, value in found.items():
        parts = name.split(".")
        for at in range(len(parts)):
            same = names.get(".".join(parts[at:]))
            if same is not None:
                counts[".".join([*parts[:at], ""]) if at else ""] += 2 if tuple(value.shape) == wanted[same] else 1

    def order(prefix: str) -> tuple[int, bool, bool, int, str]:
        twin = any(word in prefix for word in _TWINS)
        return -counts[prefix], twin, _AVERAGE.search(prefix) is None, len(prefix), prefix

    prefix = min(counts, key=order) if counts else ""
    behind = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
    if not any(name in wanted for name in behind) and any(name in names for name in behind):
        behind = {_named(name): value for name, value in behind.items()}
    return behind, prefix


def _numbered(name: str) -> str:
    part, _, rest = name.partition(".")
    return f"{_CHILDREN.get(part, part)}.{rest}"


def _named(name: str) -> str:
    number, _, rest = name.partition(".")
    return f"{_PARTS.get(number, number)}.{rest}"


def _too_many(here: Iterable[str], wanted: Mapping[str, Shape]) -> list[str]:
    """Tensors inside the module's own rows of blocks that it has no place for: a deeper network's, another shortcut's."""
    rows = {row for name in wanted for row in _rows(name)}
    return [name for name in here if name not in wanted and not name.endswith(_MADE_AGAIN) and rows.intersection(_rows(name))]


def _rows(name: str) -> list[str]:
    """Of `layer1.2.conv1.weight`: `layer1`, whose parts have numbers."""
    parts = name.split(".")
    return [".".join(parts[:at]) for at, part in enumerate(parts) if part.isdigit() and at]
