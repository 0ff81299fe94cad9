"""Writing a split behind the network's back: features in, in order; shards appear on the disk as they fill."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

from wingspan.store.manifest import Manifest
from wingspan.store.shards import Listed, ShardWriter

_WAITING = 3  # batches of features that may wait for the disk


class Behind:
    """Turns features into files, in order, on a thread of its own."""

    def __init__(self, folder: Path, manifest: Manifest, listed: Listed) -> None:
        self.folder, self.manifest, self.listed = folder, manifest, listed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._waiting: deque[Future[None]] = deque()
        self._writer: ShardWriter | None = None
        self._failed = False

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self._thread.shutdown()  # what was handed over is written even when the work was stopped
        if self._writer is not None:
            self._writer.drop()
        if kind is None:
            for each in self._waiting:
                each.result()

    def add(self, shard: int, h: Tensor, last: bool) -> None:
        """Rows of a shard, in order; `last` names it and lists it. Raises what writing earlier ones raised."""
        while len(self._waiting) >= _WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._write, shard, h, last))

    def _write(self, shard: int, h: Tensor, last: bool) -> None:
        if self._failed:
            return
        try:
            if self._writer is None:
                about = self.manifest
                rows = about.splits[self.folder.name].rows - shard * about.shard_rows
                need = rows * (
                    2 * about.width if about.format == "sparse" else about.row_bytes
                )  # sparse: hardly more than that
                self._writer = ShardWriter(self.folder, shard, about.format, about.threshold, need)
            self._writer.add(h)
            if last:
                found = self._writer.finish()
                self._writer = None
                self.listed.add(found)
        except BaseException:
            self._failed = True
            raise
