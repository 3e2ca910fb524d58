"""Prints the seconds that `--help` of every command takes, the start of Python included, the best of three.

``python benchmarks/help_time.py``; the exit status is 1 if one takes more than a second.
"""

from __future__ import annotations

import subprocess
import sys
import time

from xbench.cli import app

LIMIT = 1.0
REPEATS = 3


def seconds(words: list[str]) -> float:
    """Of a process that prints the help, the fastest of some."""
    took = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "xbench", *words, "--help"], stdout=subprocess.DEVNULL, check=True)
        took.append(time.perf_counter() - start)
    return min(took)


def main() -> int:
    """A line for each command."""
    names = sorted(str(command.name) for command in app.registered_commands)
    found = {" ".join(["xbench", *words]): seconds(words) for words in [[], *([name] for name in names)]}
    for command, took in found.items():
        print(f"{took:.2f} s  {command} --help")
    return int(max(found.values()) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
