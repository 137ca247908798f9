"Post-processing of maps over random maps: no step makes a check worse, what is promised holds, polishing twice is polishing once."
import numpy as np, pytest
from hypothesis import given, settings, strategies as st, HealthCheck
from audioml.core import derive_rng
from audioml.beatsaber.beatmap import Beatmap, make_table
from audioml.beatsaber.flow import RANKABLE_WALLS, errors_by_check
from audioml.beatsaber.postprocess import (NOTES_A_SECOND, STEPS_OF_POLISH, TURNED, add_bombs, add_walls, direction_shares, n_changed, notes_a_second, polish)

NAMES = list(NOTES_A_SECOND)

def random_map(seed, n=1000, seconds=200., bpm=120., grid=0, others=0, blue=.5, directions=9):
    "Blocks at random, and `others` bombs, walls, arcs and chains, some of them at blocks."
    rng = derive_rng('test map', seed)
    beats = lambda k: np.round(rng.uniform(4, 4 + seconds*bpm/60, k)*(grid or 960))/(grid or 960)
    cell = lambda k: dict(x=rng.integers(0, 4, k), y=rng.integers(0, 3, k))
    notes = make_table('notes', beat=beats(n), **cell(n), color=rng.random(n) < blue, direction=rng.integers(0, directions, n))
    k = min(others, n)
    heads = notes[rng.choice(n, k, replace=False)] if n else notes[:0]
    head = {c: heads[c] for c in ('beat', 'x', 'y', 'color', 'direction')}
    ribbon = dict(tail_beat=heads['beat'] + rng.uniform(.05, 1, k), tail_x=rng.integers(0, 4, k), tail_y=rng.integers(0, 3, k))
    half = slice(k//2)
    return Beatmap(notes, bombs=make_table('bombs', beat=beats(others), **cell(others)), walls=make_table('walls', beat=beats(others), duration=rng.uniform(0, 3, others), x=rng.integers(0, 4, others), height=5),
                   arcs=make_table('arcs', **head | ribbon), chains=make_table('chains', slices=3, **{c: v[half] for c, v in (head | ribbon).items()}),
                   tempos=make_table('tempos', beat=[20.], bpm=[bpm*1.5]) if others else make_table('tempos'), bpm=bpm)

maps = st.builds(random_map, st.integers(0, 10**6), n=st.integers(0, 80), seconds=st.floats(2, 60), bpm=st.floats(60, 300), grid=st.sampled_from((0, 1, 2, 4, 8)),
                 others=st.integers(0, 12), blue=st.sampled_from((.5, .9, 1.)), directions=st.sampled_from((9, 2, 1)))
often = settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

@often
@given(maps, st.sampled_from(NAMES))
def test_no_step_makes_a_check_worse(beatmap, name):
    before = errors_by_check(beatmap, name)
    for step in (*STEPS_OF_POLISH, lambda m, name, seed: add_bombs(m, name, seed, 'high'), lambda m, name, seed: add_walls(m, name, seed, 'high')):
        after, changes = step(beatmap, name, 3)
        worse = {k: (before[k], v) for k, v in errors_by_check(after, name).items() if v > before[k]}
        assert not worse, (step, worse)
        assert (after == beatmap) == (not changes)
        assert step(beatmap, name, 3) == (after, changes)

@often
@given(maps, st.sampled_from(NAMES))
def test_polish_twice_is_polish_once(beatmap, name):
    after, _ = polish(beatmap, name, seed=1, bombs='medium', walls='high')
    again, changes = polish(after, name, seed=1, bombs='medium', walls='high')
    assert changes == [] and again == after

@often
@given(maps, st.sampled_from(NAMES))
def test_walls_cover_nothing_and_can_be_ranked(beatmap, name):
    bare = beatmap.replace(walls=make_table('walls'))
    for w in add_walls(add_bombs(bare, name, density='high')[0], name, density='high')[0].walls:
        assert (w['y'], w['height']) in RANKABLE_WALLS and w['duration'] >= 1
        for t in (bare.notes, bare.bombs):
            assert not ((t['beat'] >= w['beat']) & (t['beat'] <= w['beat'] + w['duration']) & (t['x'] == w['x']) & (t['y'] >= w['y'])).any()

@pytest.mark.parametrize('name', ['Easy', 'ExpertPlus'])
def test_a_random_map_of_a_thousand_blocks(name):
    beatmap = random_map(name)
    after, changes = polish(beatmap, name)
    found = errors_by_check(after, name)
    assert not any(found[k] for k in (*TURNED, 'stacked note', 'fast swing', 'slow slider'))
    low, high = NOTES_A_SECOND[name]
    assert low <= notes_a_second(after) <= high and .45 <= after.notes['color'].mean() <= .55 and direction_shares(after).max() <= .4
    assert n_changed(changes) > 300 and polish(after, name) == (after, [])
