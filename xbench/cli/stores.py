"""`xbench merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xbench.cli.common import STORE, StoreOption
from xbench.cli.telling import say, warn


def merge(
    sources: Annotated[list[Path], typer.Argument(help="Stores to copy from, for instance those of the shards of a run.")],
    store: StoreOption = STORE,
) -> None:
    """Copies what other stores have into one store: results, maps and fitted networks; what it has already stays.

    Every file is verified. Stops, having copied nothing, where two stores have different scores under one key.
    """
    from xbench.run.merge import merge as merge_stores
    from xbench.store import Store

    copied, present = merge_stores(Store(store, warn), sources, warn)
    say(f"{store}: {copied} files copied, {present} were there or left out")
