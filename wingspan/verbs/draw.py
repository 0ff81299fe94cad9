"""Draw what representations kept: pictures made from h alone, by a diffusion model (RCDM), and numbers for what they show.

wingspan draw runs/narrow runs/wide                                 minutes on a laptop: samples, a grid, retention a factor
wingspan draw runs/* --rung ridge                                   seconds: the closed form alone, nothing else installed
wingspan draw runs/narrow runs/wide --images earth.jpg sketches/    pictures from outside beside those of the data set
wingspan draw runs/* --preset gpu64 --dry-run                       what it would cost, and nothing is done
wingspan draw runs/narrow runs/wide --edit interpolate --between test:3 test:9

RUN is a folder that wingspan pretrain wrote, or a store that wingspan features wrote. Runs of one data set share a decoder, so
give those that are to be compared together. What is constant across samples of one h is kept in h, what varies is not.

Rungs, each with those before it: ridge is a closed form from h to the picture; decoder one small network, which draws the most
likely picture; samples the diffusion model, which needs: pip install 'wingspan[rcdm]'. Numbers of samples that break the trust
rule are marked under-trained: then raise --set steps=..., or take a larger preset.

Cut short, it goes on where it was: give the same command again.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.table import Table

from wingspan import mosaic, retained, spec
from wingspan.company import Company, gather, pictures
from wingspan.data._source import PICTURES
from wingspan.data.base import Data
from wingspan.errors import UserError, nearest
from wingspan.members import Member, members, one_side
from wingspan.progress import clock, console, tell
from wingspan.rcdm import denoiser, drawing, price
from wingspan.rcdm.kept import Drawing
from wingspan.rcdm.settings import PRESETS, Settings, preset
from wingspan.runtime import Runtime, hold_memory
from wingspan.subjects import check_pictures, check_side
from wingspan.verbs import _arguments as arguments
from wingspan.verbs import _edits as edits
from wingspan.verbs import _measures as asked
from wingspan.verbs._sets import data_set


@dataclass(frozen=True)
class _Options:
    rung: Literal["ridge", "decoder", "samples"] = "samples"
    """How far to go: ridge takes seconds, decoder a minute, samples minutes on a CPU and far more at larger presets."""
    preset: str = "cpu32"
    """Size and length of training: smoke (does it run?), cpu32 (minutes on two cores), gpu64, gpu128, paper128 (the published
    network, days)."""
    side: int = 0
    """Pixels a side that are drawn, in place of the preset's; images are shrunk to it. Lower it where images are smaller."""
    samples: int = 4
    """Samples of each picture in the grid. The numbers come from others: --set evaluated=256 evaluated_samples=2."""
    own: str = "4"
    """How many of the data set's test images the grid shows, spread over classes; or which: test:3,9 or test:0-7."""
    images: tuple[str, ...] = ()
    """Pictures from outside: files, folders, or image sets as --data names them (then some of their test images)."""
    most: int = 4
    """Pictures taken of every folder or image set that --images names."""
    data: str = ""
    """Draw all runs on these images instead of those each was trained on: a folder, a file, a name or a hub id."""
    layer: str = "h"
    """Whose output is drawn: h, or 'projector 1' and so on, to see what the projector threw away."""
    store: tuple[Path, ...] = ()
    """Stores that may hold features of the runs, which are then not extracted again. RUN/features is looked at anyway."""
    out: Path | None = None
    """Folder of what is written, decoders included. Left out: drawn/ and a name made of the runs and the preset."""
    seed: int = 0
    """Decoders' initial weights, their batches, and which test images are looked at. Another seed, another decoder."""
    device: str = "auto"
    """auto, cpu or cuda."""
    references: bool = True
    """Draw beside the runs an untrained network, which keeps much too, and h that says nothing. Without them it is quicker."""
    edit: Literal["", "interpolate", "shared"] = ""
    """Draw edits of h instead of the grid. interpolate: on the way from one picture's h to another's. shared: without the
    dimensions that a picture shares with its neighbours, and with another picture's in their place."""
    between: tuple[str, ...] = ()
    """The two pictures of an edit: rows as test:3, or files. Left out: the first two that the grid would show."""
    steps: int = 8
    """Pictures on the way of an interpolation, both ends included."""
    neighbours: int = edits.NEIGHBOURS
    """Nearest training images whose shared dimensions are meant."""
    common: int = edits.COMMON
    """A dimension is shared where it is above 0 in more than so many of them. Raise it to change fewer dimensions."""
    dry_run: bool = False
    """Say what it would cost, and do nothing."""


def main(words: list[str]) -> int:
    words = list(words)
    if {"-h", "--help"} & set(words):
        arguments.parse(_Options, _Options(), ["--help"], "draw RUN [RUN ...]", f"{__doc__}\n{_settings_help()}")
    paths = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    if not paths:
        raise UserError("which runs? wingspan draw RUN [RUN ...], RUN being a folder that wingspan pretrain wrote, or a store.")
    command, words = " ".join(["wingspan", "draw", *words]), words[len(paths) :]
    changes = arguments.take_list(words, "--set") or []
    options = arguments.parse(_Options, _Options(), words, "draw RUN [RUN ...]", __doc__ or "")
    settings = _settings(options, changes)
    _check(options)
    data = data_set(options.data, one_side(members(paths, layer=options.layer))) if options.data else None
    found = members(paths, layer=options.layer, data=data)
    for member in found:
        check_side(member.data, settings.side)
        outside = _outside(options.images, member.data.side)
        check_pictures(member.data, own=options.own, outside=outside, most=options.most, seed=options.seed)
    runtime = Runtime(options.device)
    if options.dry_run:
        _forecast(found, options, settings, runtime)
        return 0
    if runtime.device.type == "cpu":
        hold_memory()
    companies = gather(
        paths, side=settings.side, layer=options.layer, data=data, references=options.references, device=options.device,
        stores=options.store,
    )  # fmt: skip
    out = options.out or Path("drawn") / _name(found, options.preset)
    if options.edit:
        _edit(companies, options, settings, out, runtime)
    else:
        _draw(companies, options, settings, out, runtime, command)
    return 0


def _draw(
    companies: Sequence[Company], options: _Options, settings: Settings, out: Path, runtime: Runtime, command: str
) -> None:
    drawings, grids = [], {}
    shown = [
        pictures(
            company.subject, company.data, own=options.own, outside=_outside(options.images, company.data.side),
            most=options.most, seed=options.seed,
        )
        for company in companies
    ]  # fmt: skip
    for company, chosen in zip(companies, shown, strict=True):
        folder = out / company.subject.name
        made = drawing.draw(
            company.subject, company.encoders, chosen, options.rung, settings, folder, options.seed, runtime, options.preset,
            options.samples,
        )  # fmt: skip
        made = replace(made, notes=(*company.notes, *made.notes))
        tell(made.notes)
        drawings.append(made)
        grids[f"{company.subject.name}: pictures made from h"] = folder / "grid.png"
        mosaic.draw(made, folder / "grid.png")
        console.print(retained.printed(made))
    page = retained.write(drawings, out, command, pictures=grids)
    files = ", ".join(map(str, [*grids.values(), out / "retention.csv", page]))
    _say(f"Wrote {files}")
    _say(f"Next: open {page} in a browser; {_next(drawings, options, settings)}")


def _next(drawings: Sequence[Drawing], options: _Options, settings: Settings) -> str:
    if options.rung != "samples":
        return "for samples, which show what varies: --rung samples"
    if any(told for each in drawings for told in each.untrusted.values()):
        return (
            f"numbers marked † are of an under-trained decoder: train longer with --set steps={4 * settings.steps} "
            f"steps_more={4 * settings.steps_more} and another --out"
        )
    return "edits of h: --edit interpolate --between test:3 test:9"


def _edit(companies: Sequence[Company], options: _Options, settings: Settings, out: Path, runtime: Runtime) -> None:
    wanted = edits.Wanted(options.edit, options.steps, options.samples, options.neighbours, options.common, options.seed)
    for company in companies:
        chosen = edits.pair(company, options.between, options.own, options.seed)
        folder = out / company.subject.name
        file = folder / f"{options.edit}.png"
        sampler = drawing.trained(company.subject, company.encoders, settings, folder, options.seed, runtime)
        edits.draw(company, chosen, sampler, wanted, file)
        _say(f"Wrote {file}")
    _say(
        "Samples are as good as their decoder: whether it is under-trained is said by the same command without --edit. "
        "Next: another pair with --between"
    )


# ---------------------------------------------------------------------------------------------------------------- arguments


def _check(options: _Options) -> None:
    """What can be refused before anything is read."""
    if options.rung == "samples" or options.edit:
        denoiser.require()
    for name in ("samples", "most"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)} must be at least 1.")
    if options.between and len(options.between) != 2:
        raise UserError(f"--between {' '.join(options.between)}: name two pictures, as test:3 test:9 or a.jpg b.jpg.")
    if options.between and not options.edit:
        raise UserError("--between names the pictures of an edit: say which with --edit interpolate or --edit shared.")
    if options.edit and options.rung != "samples":
        raise UserError(f"--edit {options.edit} shows samples: leave out --rung {options.rung}.")


def _settings(options: _Options, changes: Sequence[str]) -> Settings:
    """The preset with what --side and --set change. Raises UserError for a field that does not exist, naming the nearest."""
    values = spec.to_json(preset(options.preset)) | ({"side": options.side} if options.side else {})
    for text in changes:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set '{text}' cannot be read: write FIELD=VALUE, for instance steps=2000.")
        if name not in values:
            raise UserError(f"--set '{text}': a drawing has no setting '{name}'.{nearest(name, values)}")
        values[name] = asked.typed(value)
    return spec.from_json(Settings, values, "--set")


def _settings_help() -> str:
    """Presets, and every field of the default one with when to change it."""
    presets = ", ".join(f"{name} ({settings.side} pixels)" for name, settings in PRESETS.items())
    lines = [
        f"Presets: {presets}.",
        "",
        "Settings of a preset, as cpu32 has them; --set FIELD=VALUE [FIELD=VALUE ...] changes some:",
    ]
    told = asked.said_of(Settings)
    for name, value in spec.to_json(Settings()).items():
        lines += [f"  --set {name}={json.dumps(value)}", f"      {told[name]}"]
    return "\n".join(lines)


def _outside(words: Sequence[str], side: int) -> list[str | Data]:
    """Files and folders as they are, and what else an image set is called. Raises UserError for a file that is not there."""
    found: list[str | Data] = []
    for word in words:
        if not Path(word).exists() and (word.startswith((".", "/", "~")) or Path(word).suffix.lower() in PICTURES):
            raise UserError(f"--images '{word}' does not exist.")
        found.append(word if Path(word).exists() else data_set(word, side))
    return found


def _name(found: Sequence[Member], preset: str) -> str:
    """A folder's name: objectives, widths, preset."""
    groups = "+".join(dict.fromkeys(member.group for member in found))
    widths = "-".join(map(str, sorted({member.D for member in found})))
    return re.sub(r"[^\w.=+-]+", "-", f"{groups}-D{widths}-{preset}")


# ----------------------------------------------------------------------------------------------------------------- forecast


def _forecast(found: Sequence[Member], options: _Options, settings: Settings, runtime: Runtime) -> None:
    """What each company costs."""
    grouped: dict[str, list[Member]] = {}
    for member in found:
        grouped.setdefault(member.images, []).append(member)
    table = Table(title=f"What it takes: preset {options.preset}, {settings.side} pixels, rung {options.rung}")
    for column in (
        "images",
        "encoders",
        "decoder steps",
        "denoiser steps",
        "its weights",
        "memory for them",
        "time for samples",
    ):
        table.add_column(column, justify="left" if column == "images" else "right")
    speed = price.rate(settings, runtime) if options.rung == "samples" else 0.0
    for group in grouped.values():
        widths = [member.D for member in group]
        widths += [max(widths), 1] if options.references else []
        cells = [group[0].data.label_name, str(len(widths))]
        cells.append("" if options.rung == "ridge" else f"{settings.decoder_total(len(widths)):,}")
        if options.rung == "samples":
            cost = price.price(settings, widths)
            memory = f"{cost.weight_bytes / 2**30:.2f} GiB"
            cells += [f"{cost.steps:,}", f"{cost.parameters:,}", memory, f"about {clock(cost.seconds(speed))}"]
        table.add_row(*cells)
    console.print(table)
    _say("Features, the ridge and the decoder come on top: seconds to a few minutes." + " Nothing was done (--dry-run).")


def _say(text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)
