"""Properties of the board where a game's text stands at a full stop (arXiv 2408.00113).

At "1." ... "12." white is to move; the position is fixed by the text before. Two sets of properties:

"pieces"  which of 12 kinds of piece stands on which of 64 squares: 768 yes-or-no properties
"board"   nine that concern the whole board: check, castling rights, queens, material, an open
          en-passant square, whether a capture is there to be made

Which set the MoE-X paper used is not known to us; results name the set.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from ...probes.errors import CorpusError
from .games import START, require_chess

PIECES = "PNBRQKpnbrqk"
N_PIECE_PROPERTIES = 64 * len(PIECES)
BOARD_PROPERTIES = (
    "in check", "white may castle short", "white may castle long", "black may castle short",
    "black may castle long", "both queens there", "white has more material",
    "black has more material", "a capture is legal",
)  # fmt: skip
VALUES = {"p": 1, "n": 3, "b": 3, "r": 5, "q": 9, "k": 0}

Labels = tuple[Bool[np.ndarray, "stops pieces"], Bool[np.ndarray, "stops board"]]


def piece_names() -> list[str]:
    """Names of the piece properties: "P a1", ..., "k h8"."""
    squares = [f"{file}{rank}" for rank in "12345678" for file in "abcdefgh"]
    return [f"{piece} {square}" for square in squares for piece in PIECES]


def stops(text: str) -> list[int]:
    """Where the full stops of a game's text are."""
    return [at for at, symbol in enumerate(text) if symbol == "."]


def label_game(text: str) -> Labels:
    """Properties at every full stop of one game.

    Args:
        text: ";1.e4 e5 2.Nf3 ..."; it may be cut anywhere.

    Raises:
        CorpusError: A move is illegal or unreadable.
        MissingPackageError: The package `chess` is not installed.
    """
    chess = require_chess()
    board = chess.Board()
    pieces, whole = [], []
    for turn in text.removeprefix(START).split(".")[1:]:
        pieces.append(_pieces(board))
        whole.append(_whole(board, chess))
        # What follows a stop is two moves and the next number; a cut game may end in half a move.
        moves = turn.split(" ")[:2] if " " in turn else []
        complete = moves if turn.count(" ") >= 2 else []
        for move in complete:
            try:
                board.push_san(move)
            except ValueError as error:
                raise CorpusError(f"{move!r} is no legal move here in {text[:60]!r}...") from error
    n = len(pieces)
    return (
        np.array(pieces, dtype=bool).reshape(n, N_PIECE_PROPERTIES),
        np.array(whole, dtype=bool).reshape(n, len(BOARD_PROPERTIES)),
    )


def label_games(texts: Sequence[str]) -> Labels:
    """Properties at the full stops of several games, one after the other."""
    found = [label_game(text) for text in texts]
    return np.concatenate([p for p, _ in found]), np.concatenate([b for _, b in found])


def _pieces(board) -> np.ndarray:
    table = np.zeros((64, len(PIECES)), dtype=bool)
    for square, piece in board.piece_map().items():
        table[square, PIECES.index(piece.symbol())] = True
    return table.ravel()


def _whole(board, chess) -> list[bool]:
    symbols = [piece.symbol() for piece in board.piece_map().values()]
    white = sum(VALUES[s.lower()] for s in symbols if s.isupper())
    black = sum(VALUES[s] for s in symbols if s.islower())
    return [
        board.is_check(),
        board.has_kingside_castling_rights(chess.WHITE),
        board.has_queenside_castling_rights(chess.WHITE),
        board.has_kingside_castling_rights(chess.BLACK),
        board.has_queenside_castling_rights(chess.BLACK),
        "Q" in symbols and "q" in symbols,
        white > black,
        black > white,
        any(board.is_capture(move) for move in board.legal_moves),
    ]
