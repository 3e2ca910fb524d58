"""`xbench merge` and `xbench cache`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from xbench.cli.common import STORE, StoreOption
from xbench.cli.telling import say, warn
from xbench.files import DECODED, disk_use, user_cache


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


def cache(
    clear: Annotated[
        bool, typer.Option("--clear", help="Delete decoded images and checksums of image files; runs make them again.")
    ] = False,
) -> None:
    """Shows what the user's cache holds, and deletes decoded images; fitted networks and downloads are never deleted."""
    root = user_cache()
    for folder in sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []:
        files, size = disk_use(folder)
        gone = clear and folder.name in DECODED
        if gone:
            shutil.rmtree(folder)
        line = f"{folder}: {files} files, {size / 2**20:.1f} MiB{', deleted' if gone else ''}"
        say(line)
    if not root.is_dir():
        say(f"{root} does not exist: nothing is cached")
