"""The pretraining loop: one explicit step after another, the same for every objective."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from wingspan import augment as augmentation
from wingspan import optim, spec, warm
from wingspan.data.base import ImageSet
from wingspan.errors import AgreedError, UserError
from wingspan.online import Online
from wingspan.pretrain import Pretrain, Sitting, State, load_run, prepare
from wingspan.progress import bar, tell
from wingspan.runs import RunFolder, explained, write_json
from wingspan.runtime import Runtime, hold_memory
from wingspan.sampling import Sampler
from wingspan.stopping import Interrupted, stop_on_signals
from wingspan.synced import synced


def pretrain(run: Pretrain, path: Path, sitting: Sitting = Sitting(), *, resume: bool = False) -> RunFolder:
    """Train a run to its end in the folder `path`, going on from its last checkpoint with `resume`.

    Raises UserError for what the user can mend, Interrupted after a signal (state saved).
    """
    folder, runtime = RunFolder(path), Runtime(sitting.device, run.precision, together=True)
    with runtime.company(f"To go on: wingspan pretrain --resume {path}"), contextlib.ExitStack() as held:
        with runtime.one_first():
            if runtime.first:
                held.enter_context(folder.lock())
                _check_claim(folder, run, resume)
                _check_share(run, runtime)
            if folder.done():
                return folder
            images = run.data.load("train")
            tell(images.notes)
            sampler = Sampler(run.sampling, images, run.batch, run.seed)
        if runtime.device.type == "cpu":
            hold_memory()
        state = prepare(run, images, runtime)
        _restore(state, spec.fingerprint(run), folder, runtime)
        if not state.step:
            tell(warm.begin(run, state.learner, images, runtime))
        if sitting.strategy == "fsdp" and runtime.peers.world > 1:
            state.shard(run, runtime)
        with runtime.one_first():  # all have read what there was
            if runtime.first:
                # Only now: what could not even begin must not keep the folder from the mended settings.
                write_json(folder.spec, {"fingerprint": spec.fingerprint(run), **spec.to_json(run)})
                folder.add_provenance()
        _train(run, state, images, sampler, runtime, folder, sitting)
    return folder


def _restore(state: State, identity: str, folder: RunFolder, runtime: Runtime) -> None:
    """Go on from the last checkpoint that the first process finds whole: a network file system may show others an older one."""
    with runtime.one_first():
        if runtime.first and (found := folder.checkpoints()):
            state.restore(found[-1], identity)
    last = int(runtime.most([state.step])[0])
    if last != state.step:
        state.read(folder.checkpoint(last), identity)


def _check_share(run: Pretrain, runtime: Runtime) -> None:
    if run.batch % (runtime.peers.world * run.accumulate):
        parts = f", each in {run.accumulate} parts" if run.accumulate > 1 else ""
        raise UserError(
            f"--batch {run.batch} cannot be shared equally by {runtime.peers.world} processes{parts}: choose a multiple of "
            f"{runtime.peers.world * run.accumulate}."
        )


def _check_claim(folder: RunFolder, run: Pretrain, resume: bool) -> None:
    """Check that the folder is free or holds this very run. One without a checkpoint is free: nothing would be lost."""
    if not folder.started():
        return
    begun = folder.done() or bool(folder.checkpoints())
    changed = spec.differences(load_run(folder), run) if resume or begun else []
    if changed:
        raise UserError(
            f"{folder.path} holds a run with other settings ({'; '.join(changed)}). "
            f"To go on with it: wingspan pretrain --resume {folder.path}. For the new settings choose another --out."
        )
    if not resume and not folder.done() and folder.checkpoints():
        raise UserError(f"{folder.path} was begun before. To go on: wingspan pretrain --resume {folder.path}")


def _train(
    run: Pretrain,
    state: State,
    images: ImageSet,
    sampler: Sampler,
    runtime: Runtime,
    folder: RunFolder,
    sitting: Sitting,
) -> None:
    per_epoch = sampler.steps_per_epoch
    total = per_epoch * run.epochs
    identity, label = spec.fingerprint(run), f"{spec.kind_of(run.objective)} D={run.backbone.D} seed {run.seed}"
    saved = time.monotonic()
    state.learner.train()
    if run.start.frozen:
        state.learner.backbone.eval()  # batch norm too stays as it was
    trained = runtime.shared(state.learner)
    online = Online(run, state.learner, images, runtime, sitting if runtime.first else replace(sitting, online=False))
    if state.step:
        online.restore(folder.checkpoints()[-1])
    with (
        online,
        folder.open_metrics(state.step) if runtime.first else contextlib.nullcontext() as log,
        stop_on_signals() as stop,
        bar(label, total, done=state.step, per_unit=run.batch * run.objective.views, things="views") as shown,
    ):
        for indices, batch in _prefetched(sampler, images, _own(run, runtime), state.step, total):
            began = time.monotonic()
            facts = step(run, state, runtime, images, indices, batch, total, trained)
            facts |= online.after_step(indices, state.step, per_epoch)
            state.seconds += time.monotonic() - began
            if log is not None:
                with explained(folder.metrics):
                    log.write(json.dumps({**_standing(run, state, per_epoch, total), **facts}).encode() + b"\n")
            shown.advance(_note(facts))
            # A signal may reach one process a step before another, and clocks differ.
            signum, due = map(int, runtime.most([stop.signum or 0, time.monotonic() - saved > sitting.save_seconds]))
            keep = sitting.keep_every and state.step % (per_epoch * sitting.keep_every) == 0
            if keep or due or signum or state.step == total:
                whole = state.whole()
                if runtime.first:
                    state.save(folder, identity, online.saved(), whole)
                    _forget(folder, per_epoch, sitting)
                del whole
                saved = time.monotonic()
            if signum and state.step < total:
                text = f"Stopped at step {state.step} of {total}, saved. To go on: wingspan pretrain --resume {folder.path}"
                raise Interrupted(text, signum)
        with runtime.one_first():
            if runtime.first:
                _finish(run, state, folder)
        if stop.signum:  # what would come next, in a study, must not begin
            raise Interrupted(f"Stopped with all {total} steps done and saved in {folder.path}.", stop.signum)


def _note(facts: dict[str, float]) -> str:
    """What the progress bar says of a step."""
    read = f", online {facts['online_accuracy']:.1%}" if "online_accuracy" in facts else ""
    return f"loss {facts['loss']:.3f}{read}"


def _standing(run: Pretrain, state: State, per_epoch: int, total: int) -> dict[str, float]:
    """How far a run is, for whoever reads the log while it is written."""
    pace = state.seconds / state.step
    return {
        "step": state.step,
        "epoch": round(state.step / per_epoch, 4),
        "progress": round(state.step / total, 6),
        "seconds": round(state.seconds, 3),
        "seconds_left": round(pace * (total - state.step), 1),
        "views_per_second": round(run.batch * run.objective.views / max(pace, 1e-9), 1),
    }


def _forget(folder: RunFolder, per_epoch: int, sitting: Sitting) -> None:
    every = per_epoch * sitting.keep_every
    kept = {each.name for each in folder.checkpoints() if every and int(each.name[5:]) % every == 0}
    folder.forget_checkpoints(kept)


def _finish(run: Pretrain, state: State, folder: RunFolder) -> None:
    views = state.step * run.batch * run.objective.views
    facts = {
        "steps": state.step,
        "seconds": round(state.seconds, 2),
        "views_per_second": round(views / max(state.seconds, 1e-9), 1),
        "final_loss": folder.read_metrics()[-1]["loss"],
        "backbone_parameters": sum(p.numel() for p in state.learner.backbone.parameters()),
    }
    write_json(folder.finished, facts)


def _own(run: Pretrain, runtime: Runtime) -> Tensor:
    """Which rows of a batch this process computes: its share of every part, so that all processes' are that part in order."""
    parts = torch.arange(run.batch).split(run.batch // run.accumulate)
    return torch.cat([part[runtime.rows(len(part))] for part in parts])


def _prefetched(sampler: Sampler, images: ImageSet, own: Tensor, start: int, total: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(indices, uint8 images) of every step's `own` rows, the next batch being read while this one is computed."""

    def fetch(at: int) -> tuple[Tensor, Tensor]:
        indices = sampler.indices(at)[own]
        return indices, images.images.batch(indices)

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(fetch, start) if start < total else None
        for at in range(start, total):
            assert coming is not None
            ready = coming.result()
            coming = pool.submit(fetch, at + 1) if at + 1 < total else None
            yield ready


def step(
    run: Pretrain, state: State, runtime: Runtime, images: ImageSet, indices: Tensor, batch: Tensor, total: int,
    trained: nn.Module | None = None,
) -> dict[str, float]:  # fmt: skip
    """One optimiser step on this process's images, through what shares the learner's gradients, if given; gives the numbers of
    the log, which are those of the whole batch. Raises AgreedError *before* touching a weight when loss or gradient is not
    finite."""
    learner, optimiser = state.learner, state.optimiser
    lr = optim.rate(run.optim, (state.step + 1) / total, run.batch)
    for group in optimiser.param_groups:
        group["lr"] = lr
    draws = augmentation.draws(run.views, run.batch, run.objective.views, run.seed, state.step)[_own(run, runtime)]
    labels = images.task()[0][indices].to(runtime.device) if run.objective.supervised else None
    learner.zero_grad(set_to_none=True)
    part = len(batch) // run.accumulate
    facts: dict[str, float] = {}
    for at in range(0, len(batch), part):
        here = slice(at, at + part)
        views = augmentation.apply(run.views, batch[here].to(runtime.device), draws[here])
        with runtime.unshared(trained) if at + part < len(batch) else contextlib.nullcontext():
            with runtime.autocast(), synced(runtime.peers.world):
                terms = (trained or learner)(views, None if labels is None else labels[here], runtime.peers)
            loss = torch.stack(list(terms.values())).sum() / run.accumulate
            found = runtime.mean([float(term.detach()) for term in [loss, *terms.values()]])
            _check(run, state, dict(zip(terms, found[1:], strict=True)), lr, "loss")
            loss.backward()  # type: ignore[no-untyped-call]
        for name, value in zip(["loss", *terms], found, strict=True):
            facts[name] = facts.get(name, 0.0) + value * (1 if name == "loss" else 1 / run.accumulate)
    norm = float(torch.linalg.vector_norm(torch.stack(state.parts.gradient_norms())))
    _check(run, state, {"gradient_norm": norm}, lr, "gradient")
    optimiser.step()
    state.step += 1
    learner.after_step(state.step / total)
    return {**facts, "gradient_norm": norm, "rate": lr}


def _check(run: Pretrain, state: State, numbers: dict[str, float], lr: float, what: str) -> None:
    if all(abs(value) < float("inf") for value in numbers.values()):
        return
    found = ", ".join(f"{name} {value}" for name, value in numbers.items())
    raise AgreedError(
        f"objective '{spec.kind_of(run.objective)}': {what} is not finite at step {state.step + 1} with learning rate {lr:.3g} "
        f"({found}). No weight was changed by this step. Try a lower --optim.lr, a longer --optim.warmup, or --precision fp32."
    )
