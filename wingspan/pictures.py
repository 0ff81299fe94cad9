"""Picture files through the network that a store's features came from, by the same steps: so that codes equal the store's.

Up to rounding, which depends on how many images go through the network at a time: of 2,048 bits in bf16 on a CPU, one or two
differed for a picture alone, none in batches of the store's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from wingspan.data._decode import BrokenImageError, Fit, decode
from wingspan.errors import UserError
from wingspan.features import not_finite
from wingspan.network import Network, load_network, model_of
from wingspan.pretrain import load_run
from wingspan.progress import bar
from wingspan.runs import RunFolder
from wingspan.runtime import Precision, Runtime
from wingspan.store.shards import codes
from wingspan.store.store import Store


def pixels_of(store: Store, file: str) -> Tensor:
    """A picture file as the store's images were read: (3, S, S) uint8. Raises UserError naming it and why it cannot be."""
    data = store.manifest.data
    side, fit = getattr(data, "stored", data.side), getattr(data, "fit", "crop")  # pictures are kept with a margin
    try:
        return torch.from_numpy(decode(Path(file).read_bytes(), side, cast(Fit, fit)))
    except (BrokenImageError, OSError) as error:
        raise UserError(f"{file} ({getattr(error, 'strerror', None) or error})") from error


def features_of(store: Store, files: Sequence[str], network: Network, packed: bool) -> Tensor:
    """Features of n picture files: h (n, D) fp16, or where `packed` is asked for its codes (n, ceil(D / 8)) uint8.

    Raises UserError naming every file that cannot be decoded and why, or when the network is not the store's.
    """
    about = store.manifest
    network = network.at(about.side)
    found: list[Tensor] = []
    broken: list[str] = []
    with bar("pictures", len(files), things="pictures") as shown:
        for start in range(0, len(files), about.batch):
            batch: list[Tensor] = []
            for file in files[start : start + about.batch]:
                try:
                    batch.append(pixels_of(store, file))
                except UserError as error:
                    broken.append(str(error))
                shown.advance()
            if not broken:
                half = _forward(store, network, torch.stack(batch))
                found.append(codes(half, about.threshold) if packed else half)
    if broken:
        more = f"; and {len(broken) - 20} more" if len(broken) > 20 else ""
        raise UserError(f"{len(broken)} of {len(files)} pictures cannot be read: {'; '.join(broken[:20])}{more}.")
    return torch.cat(found)


def _forward(store: Store, network: Network, pixels: Tensor) -> Tensor:
    about = store.manifest
    if about.layer not in network.layer_names():
        raise UserError(f"{network.name} has no layer '{about.layer}', which {store.path} holds: it is another model.")
    views = network.plain(pixels)
    half = network.layer(views, about.layer).to("cpu", torch.float16)
    if half.shape[1] != about.width:
        raise UserError(
            f"{store.path} holds {about.layer} of width {about.width}, and {network.name} gives {half.shape[1]}: it is another "
            "model."
        )
    bad = (~torch.isfinite(half).all(1)).nonzero().flatten()
    if len(bad):
        raise not_finite(network, "pictures", bad.tolist())
    return half


def network_of(store: Store, run: Path | str = "", device: str = "auto") -> Network:
    """The network whose features a store holds: the run's that it names, or of `run` where that folder was moved.

    Raises UserError when there is no such run, or when it is another model: other settings, a later checkpoint, other weights.
    """
    about = store.manifest
    if not (run or about.model.run):
        raise UserError(
            f"{store.path} holds features of '{about.model.name}', which is no run: only rows of the store can be searched for "
            "from the command line; in Python give network=."
        )
    folder = RunFolder(Path(run or about.model.run))
    if not folder.started():
        raise UserError(
            f"pictures have to go through the network, and '{folder.path}' holds no run"
            + (": name the run's folder with --run." if run else " any more: say with --run where it is now.")
        )
    settings = load_run(folder)
    _, network = load_network(folder, Runtime(device, cast(Precision, about.precision)))
    given = model_of(folder, settings)
    facts = {
        "fingerprint": (about.model.fingerprint, given.fingerprint),
        "step": (about.model.step, given.step),
        "weights": (about.model.weights[:12], given.weights[:12]),
    }
    if about.layer == "h":
        facts["width"] = (about.width, settings.backbone.D)
    other = [f"{name} {held} in the store, {found} there" for name, (held, found) in facts.items() if held != found]
    if other:
        raise UserError(
            f"{store.path} is the store of another model than {folder.path}: {'; '.join(other)}. Name with --run the run that "
            "it was made from, or extract again with wingspan features."
        )
    return network
