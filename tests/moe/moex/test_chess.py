"""Games and boards: against the package `chess` and by hand."""

import random

import numpy as np
import pytest

from fluoroscope.moe.moex.board import (
    BOARD_PROPERTIES,
    label_game,
    label_games,
    piece_names,
    stops,
)
from fluoroscope.moe.moex.games import (
    SYMBOLS,
    game_text,
    play_games,
    read_games,
    require_chess,
    write_games,
)
from fluoroscope.moe.moex.tokenising import chess_tokenizer
from fluoroscope.probes.errors import CorpusError, OptionError

chess = pytest.importorskip("chess", reason="the package chess is not installed")
GAME = ";1.e4 e5 2.Nf3 Nc6 3.Bb5 a6 4.O-O"


def test_the_games_that_come_along_are_legal_and_differ() -> None:
    games = read_games()
    assert len(games) == len(set(games)) == 8000
    assert set("".join(games)) <= set(SYMBOLS)
    for game in random.Random(0).sample(games, 20):
        board = chess.Board()
        for turn in game.removeprefix(";").split(" "):
            board.push_san(turn.rpartition(".")[2])
        assert board.ply() <= 40


def test_labels_are_the_boards_between_moves() -> None:
    pieces, whole = label_game(GAME)
    assert len(pieces) == len(stops(GAME)) == 4
    board, names = chess.Board(), piece_names()
    for row, moves in enumerate((["e4", "e5"], ["Nf3", "Nc6"], ["Bb5", "a6"], [])):
        expected = {
            f"{piece.symbol()} {chess.square_name(square)}"
            for square, piece in board.piece_map().items()
        }
        assert {names[i] for i in np.flatnonzero(pieces[row])} == expected
        for move in moves:
            board.push_san(move)
    at = {name: BOARD_PROPERTIES.index(name) for name in BOARD_PROPERTIES}
    assert whole[:, at["white may castle short"]].all()
    assert not whole[:, at["in check"]].any()
    assert whole[3, at["a capture is legal"]]
    assert not whole[0, at["a capture is legal"]]


@pytest.mark.parametrize("cut", range(6, len(GAME)))
def test_a_game_may_be_cut_anywhere(cut: int) -> None:
    whole, part = label_game(GAME), label_game(GAME[:cut])
    n = len(stops(GAME[:cut]))
    assert len(part[0]) == n
    np.testing.assert_array_equal(part[0], whole[0][:n])


def test_several_games_follow_one_another() -> None:
    pieces, whole = label_games([GAME, GAME[:12]])
    assert len(pieces) == len(whole) == 4 + len(stops(GAME[:12]))
    with pytest.raises(CorpusError, match="'e5' is no legal move"):
        label_game(";1.e5 e4 2.Nf3")


def test_random_games_are_reproducible_and_survive_their_file(tmp_path) -> None:
    games = play_games(5, n_plies=12, seed=3)
    assert games == play_games(5, n_plies=12, seed=3)
    assert games != play_games(5, n_plies=12, seed=4)
    for name in ("a.pgn", "a.pgn.gz"):
        assert read_games(write_games(games, tmp_path / name)) == games
    label_games(games)


def test_more_games_than_there_are_is_refused() -> None:
    """There are 20 first moves, and 400 games of two plies."""
    with pytest.raises(OptionError, match=r"Only 3\d\d different games"):
        play_games(401, n_plies=2)
    assert len(play_games(300, n_plies=2)) == 300


def test_pgn_of_others_is_read(tmp_path) -> None:
    (tmp_path / "a.pgn").write_text(
        '[Event "x"]\n[Result "1-0"]\n\n1. e4 e5 2. Nf3\nNc6 1-0\n\n'
        '[Event "y"]\n\n1. d4 {a comment\n[%clk 0:01:00]\n\n} 1... d5 $1 (1... Nf6 2. c4 (2. Nf3)) '
        '2. c4!? *\n\n[FEN "8/8/8/8/8/4k3/4p3/4K3 w - - 0 1"]\n\n1. d4 d5 *\n\n'
        "1. d4 d5 ; to the end of the line\n1/2-1/2\n"
    )
    assert read_games(tmp_path / "a.pgn") == [";1.e4 e5 2.Nf3 Nc6", ";1.d4 d5 2.c4", ";1.d4 d5"]
    (tmp_path / "b.pgn").write_text("hello\n")
    for name, match in (("b.pgn", "holds no game"), ("c.pgn", "No games at")):
        with pytest.raises(CorpusError, match=match):
            read_games(tmp_path / name)
    with pytest.raises(OptionError, match="No chess engine"):
        play_games(1, engine="no-such-engine")
    with pytest.raises(OptionError, match="random_share"):
        play_games(1, random_share=2)


def test_tokens_are_the_32_symbols() -> None:
    tokenizer = chess_tokenizer()
    assert len(tokenizer) == len(SYMBOLS) == 32
    ids = tokenizer(GAME)["input_ids"]
    assert len(ids) == len(GAME)
    assert tokenizer.decode(ids) == GAME
    assert game_text(["e4", "e5", "Nf3"]) == ";1.e4 e5 2.Nf3"
    assert require_chess() is chess
