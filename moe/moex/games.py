"""Chess games to learn from: played here, kept as PGN, read as characters.

The paper (arXiv 2503.07639) trains on Lichess games as strings of PGN, one character a token. No such
set comes with this package; `moe/data/games.pgn.gz` holds games of our own making instead: openings of
random legal moves, then a chess engine at a small fixed depth, with a random legal move now and then
so that games differ. Without an engine, games are random legal play throughout.

A game is written ";1.e4 e5 2.Nf3 ...", as in arXiv 2403.15498: 32 symbols, no results, no comments.
"""

from __future__ import annotations

import gzip
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ...probes.errors import CorpusError, MissingPackageError, OptionError

SYMBOLS = " #+-.0123456789;=BKNOQRabcdefghx"
"""The 32 symbols of a game's text; ";" begins one."""

START = ";"
GAMES = Path(__file__).parents[1] / "data" / "games.pgn.gz"
"""Games that come with the package."""

MOST_ALIKE = 200
"""So many games in a row that were played before end the playing."""

Progress = Callable[[int, int, str], None]


def require_chess() -> ModuleType:
    """The package `chess`.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        import chess
    except ImportError as error:
        raise MissingPackageError(
            'Rules of chess need the package chess: pip install "chess>=1.11,<2"'
        ) from error
    return chess


def play_games(
    n_games: int,
    *,
    engine: str | None = None,
    depth: int = 3,
    n_opening: int = 6,
    random_share: float = 0.1,
    n_plies: int = 60,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[str]:
    """Play games.

    Args:
        n_games: How many different ones.
        engine: Path of a UCI engine such as Stockfish; None for random legal moves throughout.
        depth: Depth the engine searches to, in plies.
        n_opening: Random legal moves at the beginning, in plies.
        random_share: Share of later moves that are random too, 0 to 1.
        n_plies: Longest game, in plies.
        seed: Seed of the random moves.
        progress: Called after every game.

    Returns:
        One text per game, ";1.e4 e5 2.Nf3 ...", no two alike.

    Raises:
        MissingPackageError: The package `chess` is not installed.
        OptionError: There is no engine of that name, a number is out of range, or there are not so many
            different games of that kind.
    """
    if n_games < 1 or depth < 1 or n_plies < 2 or not 0 <= random_share <= 1:
        raise OptionError(
            "n_games and depth must be at least 1, n_plies at least 2 and random_share in 0-1, got "
            f"{n_games}, {depth}, {n_plies} and {random_share}."
        )
    chess = require_chess()
    generator = random.Random(seed)
    games: dict[str, None] = {}
    n_alike = 0
    with _player(engine, depth) as best:
        while len(games) < n_games:
            board, written = chess.Board(), []
            while len(written) < n_plies and not board.is_game_over():
                early = len(written) < n_opening
                if best is None or early or generator.random() < random_share:
                    move = generator.choice(sorted(board.legal_moves, key=str))
                else:
                    move = best(board)
                written.append(board.san(move))
                board.push(move)
            game = game_text(written)
            n_alike = n_alike + 1 if game in games else 0
            if n_alike == MOST_ALIKE:
                raise OptionError(
                    f"Only {len(games):,} different games came out, {MOST_ALIKE} in a row were among "
                    f"them already; ask for fewer than {n_games:,}, or for more random moves."
                )
            games[game] = None
            if progress is not None:
                progress(len(games), n_games, "games")
    return list(games)


def game_text(moves: list[str]) -> str:
    """A game's text from its moves in standard algebraic notation."""
    turns = [" ".join(moves[i : i + 2]) for i in range(0, len(moves), 2)]
    return START + " ".join(f"{number}.{turn}" for number, turn in enumerate(turns, start=1))


def write_games(games: list[str], path: str | Path) -> Path:
    """Write games as PGN, movetext only; a name that ends in .gz is compressed."""
    path = Path(path)
    text = "".join(f"{game.removeprefix(START)} *\n\n" for game in games).encode()
    path.write_bytes(gzip.compress(text, 9, mtime=0) if path.suffix == ".gz" else text)
    return path


def read_games(path: str | Path | None = None) -> list[str]:
    """Read games from PGN; tags, comments, variations, annotations and results are left out.

    Games that do not begin at the usual position (a FEN tag) are left out whole.

    Args:
        path: A .pgn or .pgn.gz file; None for the games that come with the package.

    Raises:
        CorpusError: There is no such file, or it holds no game in these 32 symbols.
    """
    path = GAMES if path is None else Path(path)
    if not path.is_file():
        raise CorpusError(f"No games at {path}: give a .pgn or .pgn.gz file.")
    raw = path.read_bytes()
    try:
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise CorpusError(
            f"{path.name} must be PGN in UTF-8, plain or gzipped: {error}."
        ) from error
    text = re.sub(r"\{[^}]*\}", " ", text)  # comments, which may hold lines of any kind
    games = [game for game in map(_plain, _movetexts(text)) if game is not None]
    if not games:
        raise CorpusError(f"{path.name} holds no game written as 1.e4 e5 2.Nf3; give PGN.")
    return games


def _movetexts(text: str) -> Iterator[str]:
    """Text of each game: what stands between tags or blank lines."""
    lines: list[str] = []
    is_set_up = False
    for line in [*text.splitlines(), ""]:
        if line.strip() and not line.startswith("["):
            lines.append(line.partition(";")[0].strip())
        elif lines:
            if not is_set_up:
                yield " ".join(lines)
            lines, is_set_up = [], False
        is_set_up |= line.startswith("[FEN ")


def _plain(movetext: str) -> str | None:
    """A game's text, or None where something is left that is no move in these 32 symbols."""
    moves_alone = re.sub(r"\$\d+|[!?]+", " ", movetext)
    while moves_alone != (moves_alone := re.sub(r"\([^()]*\)", " ", moves_alone)):
        pass  # variations stand in one another
    words = moves_alone.replace(".", ". ").split()
    moves = [w for w in words if not w.rstrip(".").isdigit() and w not in _RESULTS]
    game = game_text(moves)
    return game if moves and set(game) <= set(SYMBOLS) else None


_RESULTS = ("*", "1-0", "0-1", "1/2-1/2", ".", "..")


@contextmanager
def _player(path: str | None, depth: int) -> Iterator[Callable[[Any], Any] | None]:
    if path is None:
        yield None
        return
    found = shutil.which(path)
    if found is None:
        raise OptionError(
            f"No chess engine {path!r}: give the path of a UCI engine, or leave it out."
        )
    import chess.engine

    with chess.engine.SimpleEngine.popen_uci(found) as engine:
        engine.configure({"Threads": 1, "Hash": 16})
        limit = chess.engine.Limit(depth=depth)

        def best(board: Any) -> Any:
            return engine.play(board, limit).move

        yield best
