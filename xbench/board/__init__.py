"""From results to boards: statistics, rank matrices, markdown, CSV and figures."""

from xbench.board import terminal
from xbench.board.board import Board, make_board
from xbench.board.files import write

__all__ = ["Board", "make_board", "terminal", "write"]
