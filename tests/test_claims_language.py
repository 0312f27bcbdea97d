"""Languages of which the answer is known: a code of the scene, and one that ignores it."""
from types import SimpleNamespace

import numpy as np
import planted
from planted import cells_of, verdict_of

from studies.claims import steering
from studies.claims.scenes import boards_of
from studies.claims.scores import resample
from studies.claims.words import Speech, board_features, speech_of, words_readout


def code(singles):
    """A speaker that names background, root, row and column, a place each, and says a word without use."""

    def speak(boards):
        rows = [singles.hypotheses(board) for board in boards]
        objects = np.array([found.objects[0, 0] for found in rows])
        backgrounds = [found.backgrounds[0] for found in rows]
        return np.column_stack([backgrounds, objects, np.zeros(len(boards), int)])

    def rebuild(words):
        rows = words[:, [1, 2, 3, 0]] % [10, 6, 6, 10]
        return boards_of(singles, 0, rows, np.random.default_rng(0)).boards

    return SimpleNamespace(speak=speak, rebuild=rebuild)


def test_language_that_is_a_known_code_and_one_that_ignores_the_scene():
    singles = planted.singles()
    rng = np.random.default_rng(0)
    scenes = planted.drawn(singles, 0, 700, "train")
    features = board_features(scenes, 10)
    speaker = code(singles)
    said, silent = speaker.speak(scenes.boards), rng.integers(8, size=(700, 5))
    for words, expected in ((said, True), (silent, False)):
        sources = {"words": words, "random codes": rng.permutation(words)}
        speech = Speech(scenes, sources, resample(200, rng, 200), n_fit=420, n_valid=80)
        rows = words_readout(speech, features)
        assert verdict_of(rows) == ("supported" if expected else "not supported")
        counted = {row.feature for row in rows if row.counts}
        assert max(row.extras["boards"] for row in rows) == 200
        assert counted == {"background", "row", "column", "which roots are there"}
    steered = steering.measure(speaker, singles, [0], rng, 40, 200)
    assert verdict_of(steered) == "supported"
    for row in cells_of(steered):
        assert row["effect"] == row["given both rebuilt"] == row["upper"] == row["words that differ"] == 1
    assert [row.counts for row in steered] == [True, True, False, True, True]
    speaker.rebuild = lambda words: scenes.boards[: len(words)]  # whatever is said
    assert verdict_of(steering.measure(speaker, singles, [0], rng, 40, 200)) == "not supported"


def test_a_language_that_rebuilds_every_board_but_whose_words_mean_nothing_alone_does_not_steer():
    """Words are the digits of a number drawn for each scene."""
    singles = planted.singles()
    plain, rng = code(singles), np.random.default_rng(0)
    number = rng.permutation(10 * 10 * 6 * 6)
    scene, shape = np.argsort(number), (10, 10, 6, 6)

    def speak(boards):
        own = number[np.ravel_multi_index(plain.speak(boards)[:, :4].T, shape)]
        return np.stack([own // 256, own // 16 % 16, own % 16], 1)

    def rebuild(words):
        own = scene[(words @ [256, 16, 1]) % len(scene)]
        return plain.rebuild(np.stack(np.unravel_index(own, shape), 1))

    rows = steering.measure(SimpleNamespace(speak=speak, rebuild=rebuild), singles, [0], rng, 60, 200)
    assert verdict_of(rows) == "not supported"
    for row in cells_of(rows):
        assert row["upper"] == 1
        assert row["effect"] < 0.1


def test_words_of_an_object_at_a_place_hold_where_it_stands_there_alone():
    """One word is root, row and column together, the other the background."""
    singles = planted.singles()
    plain, rng = code(singles), np.random.default_rng(0)
    number = rng.permutation(10 * 6 * 6)
    thing, shape = np.argsort(number), (10, 6, 6)

    def speak(boards):
        said = plain.speak(boards)
        return np.stack([said[:, 0], number[np.ravel_multi_index(said[:, 1:4].T, shape)]], 1)

    def rebuild(words):
        objects = np.stack(np.unravel_index(thing[words[:, 1]], shape), 1)
        return plain.rebuild(np.column_stack([words[:, 0], objects]))

    rows = steering.measure(SimpleNamespace(speak=speak, rebuild=rebuild), singles, [0], rng, 60, 200)
    effects = {row.feature: row.effect[0] for row in rows}
    assert effects["root of single boards, words taken from other boards, same place"] == 1
    assert effects["root of single boards, words taken from other boards"] < 0.2
    assert effects["background of single boards, words taken from other boards"] == 1
    [same] = [row for row in rows if "same place" in row.feature]
    assert not same.counts
    assert same.controls["another pair's words"][0] < 0.2


def test_controls_of_steering_are_counted_as_the_effect_is():
    """A speaker that draws the wanted board whatever is said: effect, bound and controls are all of them."""
    singles, heard = planted.singles(), []

    def speak(boards):
        heard.append(boards)
        return np.random.default_rng(len(heard)).integers(8, size=(len(boards), 4))

    wanted = SimpleNamespace(speak=speak, rebuild=lambda words: heard[-3])
    rows = steering.measure(wanted, singles, [0], np.random.default_rng(0), 20, 50)
    for row in rows:
        assert {control[0] for control in row.controls.values()} == {1} == {row.effect[0]}
        assert not row.supported


def test_speech_has_boards_of_all_types_and_keeps_copies_of_a_row_apart():
    dataset, rng = planted.dataset(), np.random.default_rng(0)
    speaker = SimpleNamespace(speak=lambda boards: boards.reshape(len(boards), -1))
    speech = speech_of(speaker, speaker, dataset, {0: 0.9, 1: 0.05, 2: 0.05}, rng, 600, 12, 20)
    assert len(speech.boards) == 600 + 36
    assert 60 < speech.n_valid < 140
    parts = [set(map(tuple, speech.boards.tokens[part]))
             for part in (slice(speech.n_fit), speech.to_choose, speech.test)]
    assert not parts[2] & (parts[0] | parts[1])
    assert not parts[0] & parts[1]
    np.testing.assert_array_equal(np.bincount(speech.boards.types[speech.test]), [12, 12, 12])
