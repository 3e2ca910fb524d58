"""``python -m xbench``: the command line."""

from xbench.cli import main

main()
