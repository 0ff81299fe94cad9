"""Images to views at 224 pixels: JPEGs decoded here, the same packed, and torchvision's transforms on PIL images, in turn.

    python benchmarks/loader.py --json [--only rate pack memory] [--cores 1] [--images 512] [--rounds 5]
    python benchmarks/loader.py --only rate --data ILSVRC/val --store 384

rate: two augmented views (crop, flip, jitter, grey, solarise; normalised fp32) of every image. pil is a DataLoader over files:
each is opened once, and the transforms are applied twice. ours decodes once and cuts both views from the square it keeps
(`--store` pixels; 256 by default, which is less detail than pil's crops of the whole picture). packed reads that square.
ours-pixels and packed-pixels stop where training with a GPU hands over: one uint8 square an image, views being cut there.
The whole process is held to `--cores` cores; pil has as many worker processes (on one core none, which is faster there), and
ours as many threads. Images are JPEGs of 500 x 375 pixels made up of noise of many scales, about 110 kB as ImageNet's are.
pack: images a second of `wingspan pack`, and the bytes it takes.
memory: what the process holds, its own memory apart from mapped files, which the system takes back when it needs to, over one
epoch of `--epoch` images that repeat a few pictures: decoded batch by batch from Parquet, and packed.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from _parts import carry_out
from PIL import Image

from wingspan import augment, interop
from wingspan.data._packing import pack
from wingspan.data.base import Images
from wingspan.data.hub import Hub
from wingspan.data.packed import Packed
from wingspan.runtime import hold_memory
from wingspan.sampling import uniform

PARTS = ("rate", "pack", "memory")
SIDE, VIEWS = 224, 2
VIEW = augment.Augment(size=SIDE, solarise=(0.1,))


def main() -> None:
    options = arguments()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    torch.set_num_threads(options.cores)
    hold_memory()  # as training does on a CPU
    parts = {"rate": rate, "pack": packing, "memory": memory}
    carry_out(options, parts, benchmark="loader", cores=options.cores)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="some of the parts")
    parser.add_argument("--cores", type=int, default=1, help="cores of every side")
    parser.add_argument("--data", help="a folder of JPEG files instead of made ones")
    parser.add_argument("--images", type=int, default=512, help="made, or of the folder at most")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--store", type=int, default=0, help="side of the square that ours keeps; 0: 256")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epoch", type=int, default=200_000, help="images of memory")
    parser.add_argument("--epoch-side", type=int, default=96, help="pixels of memory's images")
    return parser.parse_args()


# --------------------------------------------------------------------------------------------------------------- pictures


def picture(chance: np.random.Generator, width: int, height: int, quality: int) -> bytes:
    """A JPEG of noise at scales from the whole picture to the pixel, the finer the weaker."""
    total = np.zeros((height, width, 3), np.float32)
    for cells in (4, 8, 16, 32, 64, 128, 256, 512):
        for channel in range(3):
            coarse = chance.standard_normal((max(2, cells * height // width), cells), np.float32)
            total[..., channel] += 120 / cells**0.5 * np.asarray(Image.fromarray(coarse).resize((width, height)))
    held = io.BytesIO()
    Image.fromarray(np.clip(total + 128, 0, 255).astype(np.uint8)).save(held, "JPEG", quality=quality)
    return held.getvalue()


def files_of(options: argparse.Namespace, folder: Path) -> list[Path]:
    if options.data:
        found = sorted(path for path in Path(options.data).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        place = folder / "chosen"
        place.mkdir(exist_ok=True)
        for path in found[: options.images]:
            (place / path.name).symlink_to(path.absolute())
        return sorted(place.iterdir())
    place, chance = folder / "made", np.random.default_rng(0)
    place.mkdir(exist_ok=True)
    for at in range(len(list(place.iterdir())), options.images):
        (place / f"{at:05d}.jpg").write_bytes(picture(chance, 500, 375, 96))
    return sorted(place.iterdir())


# ------------------------------------------------------------------------------------------------------------------- rate


class Pictures(torch.utils.data.Dataset[Any]):
    """torchvision's way: the file opened once, all transforms once a view."""

    def __init__(self, files: list[Path]) -> None:
        interop.torchvision()
        from torchvision import transforms as T

        self.files = files
        self.view = T.Compose([
            T.RandomResizedCrop(SIDE, VIEW.scale, VIEW.ratio),
            T.RandomHorizontalFlip(VIEW.flip[0]),
            T.RandomApply([T.ColorJitter(VIEW.brightness, VIEW.contrast, VIEW.saturation, VIEW.hue)], VIEW.jitter[0]),
            T.RandomGrayscale(VIEW.grey[0]),
            T.RandomSolarize(128, VIEW.solarise[0]),
            T.ToTensor(),
            T.Normalize(VIEW.mean, VIEW.std),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        with Image.open(self.files[index]) as opened:
            image = opened.convert("RGB")
        return tuple(self.view(image) for _ in range(VIEWS))


def one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def pil(files: list[Path], options: argparse.Namespace) -> Iterator[torch.Tensor]:
    workers = options.cores if options.cores > 1 else 0
    loader = torch.utils.data.DataLoader(
        Pictures(files), options.batch, shuffle=True, drop_last=True, num_workers=workers,
        worker_init_fn=one_thread if workers else None,
    )  # fmt: skip
    for views in loader:
        yield torch.cat(list(views))


def ours(images: Images, options: argparse.Namespace, views: bool = True) -> Iterator[torch.Tensor]:
    """As the training loop reads: the next batch is fetched while this one is worked on."""
    steps = len(images) // options.batch
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(images.batch, uniform(0, 0, len(images), options.batch))
        for step in range(steps):
            batch = coming.result()
            if step + 1 < steps:
                coming = pool.submit(images.batch, uniform(0, step + 1, len(images), options.batch))
            yield augment.apply(VIEW, batch, augment.draws(VIEW, len(batch), VIEWS, 0, step)) if views else batch


def epoch(make: Callable[[], Iterator[torch.Tensor]], options: argparse.Namespace) -> float:
    """Images a second."""
    began, images = time.perf_counter(), 0
    for _ in make():
        images += options.batch
    return images / (time.perf_counter() - began)


def opened(options: argparse.Namespace, folder: Path) -> tuple[list[Path], Hub, Images]:
    files = files_of(options, folder)
    hub = Hub(path=str(files[0].parent), size=SIDE, store=options.store, cache_gb=0.0, workers=options.cores)
    held = pack(hub, folder / f"packed-{hub.stored}", hub.stored, ("train",))
    assert held.parts["train"].images <= len(files)
    return files, hub, Packed(folder=str(folder / f"packed-{hub.stored}"), size=SIDE).load("train").images


def rate(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    files, hub, packed = opened(options, folder)
    jpegs = hub.load("train").images
    sides: dict[str, Callable[[], Iterator[torch.Tensor]]] = {
        "pil": lambda: pil(files[: len(jpegs)], options),
        "ours": lambda: ours(jpegs, options),
        "packed": lambda: ours(packed, options),
        "ours-pixels": lambda: ours(jpegs, options, views=False),
        "packed-pixels": lambda: ours(packed, options, views=False),
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(-1, options.rounds):  # one to warm up
        for name, make in sides.items():
            each = epoch(make, options)
            if round_ >= 0:
                found[name].append(each)
    ratios = {name: [a / b for a, b in zip(each, found["pil"], strict=True)] for name, each in found.items() if name != "pil"}
    return {
        "images": len(jpegs), "mean_bytes": round(statistics.mean(file.stat().st_size for file in files)), "store": hub.stored,
        "images_per_second_a_core": {name: round(statistics.median(each) / options.cores, 1) for name, each in found.items()},
        "over_pil": {name: [round(f(each), 2) for f in (statistics.median, min, max)] for name, each in ratios.items()},
        "packed_over_ours": spread(found["packed"], found["ours"]),
        "packed_pixels_over_ours_pixels": spread(found["packed-pixels"], found["ours-pixels"]),
    }  # fmt: skip


def spread(above: list[float], below: list[float]) -> list[float]:
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return [round(each(ratios), 2) for each in (statistics.median, min, max)]


# ------------------------------------------------------------------------------------------------------- packing, memory


def packing(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    files = files_of(options, folder)
    hub = Hub(path=str(files[0].parent), size=SIDE, workers=options.cores)
    began = time.perf_counter()
    pack(hub, folder / "packing", hub.stored, ("train", "test"))
    took = time.perf_counter() - began
    size = sum(file.stat().st_size for file in (folder / "packing").glob("*.u8"))
    return {
        "images": len(files), "images_per_second_a_core": round(len(files) / took / options.cores, 1),
        "bytes_an_image": round(size / len(files)),
        "jpeg_bytes": round(sum(file.stat().st_size for file in files) / len(files)),
    }  # fmt: skip


def held() -> dict[str, float]:
    """MB of this process: its own memory, and pages of files that it has mapped."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) / 1e3 for line in lines if line.startswith("Rss")}
    return {"own": round(found["RssAnon"], 1), "mapped": round(found["RssFile"] + found["RssShmem"], 1)}


def repeated(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Parquet files of `--epoch` images and a label each."""
    chance, side = np.random.default_rng(0), options.epoch_side
    cells = [picture(chance, side, side, 90) for _ in range(64)]
    place, part = folder / "repeated" / "train", 10_000
    place.mkdir(parents=True)
    for number, start in enumerate(range(0, options.epoch, part)):
        rows = [{"bytes": cells[row % len(cells)], "path": None} for row in range(start, min(start + part, options.epoch))]
        table = pa.table({"image": rows, "label": np.arange(len(rows)) % 10})
        pq.write_table(
            table,
            place / f"train-{number:05d}-of-{-(-options.epoch // part):05d}.parquet",
            compression="none",
            use_dictionary=False,
        )
    pq.write_table(table.slice(0, 10), place.parent / "test.parquet")
    return {"GB": round(sum(file.stat().st_size for file in place.iterdir()) / 1e9, 2)}


def memory(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"images": options.epoch, "side": options.epoch_side}
    spawn = multiprocessing.get_context("spawn")  # each in a process of its own, which holds nothing else
    for name, work in (("made", repeated), ("packing", packing_memory), ("jpeg", jpeg_memory), ("packed", packed_memory)):
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            found[name] = pool.submit(work, options, folder).result()
    return found


def repeated_hub(options: argparse.Namespace, folder: Path) -> Hub:
    side = options.epoch_side
    return Hub(path=str(folder / "repeated"), size=side, store=side, cache_gb=0.0, workers=options.cores)


def packing_memory(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    before = held()
    pack(repeated_hub(options, folder), folder / "packed", options.epoch_side, ("train",))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"before_MB": before, "after_MB": held(), "most_MB_mapped_too": round(most, 1)}


def jpeg_memory(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    return epoch_memory(repeated_hub(options, folder).load("train").images)


def packed_memory(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    return epoch_memory(Packed(folder=str(folder / "packed")).load("train").images)


def epoch_memory(images: Images, batch: int = 512) -> dict[str, Any]:
    """MB after the first batch and ten times on the way."""
    steps, told = len(images) // batch, []
    for step in range(steps):
        images.batch(uniform(0, step, len(images), batch))
        if step == 0 or (step + 1) % max(1, steps // 10) == 0:
            told.append(held())
    own = [each["own"] for each in told]
    return {"images": len(images), "own_MB": own, "grew_MB": round(own[-1] - own[1], 1), "mapped_MB": told[-1]["mapped"]}


if __name__ == "__main__":
    main()
