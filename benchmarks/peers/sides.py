"""A process for our side of the work and one for the peers', which take turns."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import sys
import traceback
import warnings
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
from pairs import ours, seconds, subject

import xbench.classifier


class Side:
    """A process that does one side of the work: it calls `serve` until this is closed."""

    def __init__(self, *, mine: bool, size: int, images: int, precision: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        settings = {"mine": mine, "size": size, "images": images, "precision": precision, "threads": threads}
        self.process = context.Process(target=serve, args=(other, settings), daemon=True)
        self.process.start()
        self.form = self.connection.recv()

    def pairs(self, peer: str) -> Sequence[tuple[str, str]]:
        """The work that is compared with a peer, and what the peer calls it; the numbers of `run` count these."""
        return self._ask(peer)

    def run(self, number: int) -> tuple[float, float]:
        """Seconds of one piece of work: (ours, its bare passes), or (theirs, 0); RuntimeError of what it raised."""
        return self._ask(number)

    def close(self) -> None:
        """Ends the process."""
        self.process.terminate()
        self.process.join()

    def _ask(self, what: str | int) -> Any:
        self.connection.send(what)
        answer = self.connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


def serve(connection: Connection, settings: dict[str, Any]) -> None:
    """Answers with the names of a peer's pairs, or the seconds of a pair of the peer asked about last."""
    mine, threads = settings.pop("mine"), settings.pop("threads")
    if not mine:
        xbench.classifier.keep_freed_memory = lambda: None  # type: ignore[assignment]  # the peers' users do not have it
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    of = subject(**settings, form=mine)
    form = of.classifier.form
    connection.send(f"{form.name} in {of.making:.1f} s, {form.batch_size} images at a time" if form else "")
    with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(EOFError):
        while True:
            asked = connection.recv()
            try:
                if isinstance(asked, str):
                    pairs = importlib.import_module(f"of_{asked}").pairs(of)
                    connection.send([(pair.work, pair.peer) for pair in pairs])
                else:
                    pair = pairs[asked]
                    connection.send(ours(pair, of) if mine else (seconds(pair.theirs) / pair.more, 0.0))
            except Exception as error:  # whatever a peer may raise
                traceback.print_exc()
                connection.send(RuntimeError(f"{type(error).__name__}: {error}".splitlines()[0]))
