"What a cell cannot show of the checks of a map: laws over random maps, plain loops that must agree, hostile ones."
import time, tracemalloc
import numpy as np, pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from audioml.core import BadInput, derive_rng
from audioml.beatsaber.beatmap import *
from audioml.beatsaber.flow import *

laws = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
MIRRORED = np.array([0, 1, 3, 2, 5, 4, 7, 6, 8]) # cut directions in a mirror


@st.composite
def maps(draw, wild=False):
    "A dense map on sixteenths of a beat; a `wild` one has columns, colours and directions that no game knows, and its tempo changes."
    n, m, seed = draw(st.integers(0, 60)), draw(st.integers(0, 12)), draw(st.integers(0, 2**32))
    rng = derive_rng('maps', seed)
    beat = lambda k: rng.integers(0, 16*draw(st.sampled_from([2, 8, 40])), k)/16
    cells = lambda k: dict(x=rng.integers(-3 if wild else 0, 7 if wild else 4, k), y=rng.integers(-3 if wild else 0, 6 if wild else 3, k))
    tail = lambda k: {f'tail_{c}': v for c, v in cells(k).items()} | dict(tail_beat=beat(k))
    hand = lambda k: dict(color=rng.integers(0, 4 if wild else 2, k), direction=rng.choice([*range(9), -1, 9, 1000, 1077, 1360] if wild else range(9), k))
    return Beatmap(make_table('notes', beat=beat(n), **cells(n), **hand(n), angle=rng.choice([0, 0, 0, 45, -30, 22 if wild else 15], n)),
                   make_table('bombs', beat=beat(m), **cells(m)),
                   make_table('walls', beat=beat(m), duration=rng.choice([-1, 0, .02, 2], m), height=rng.integers(1, 6, m), **cells(m)),
                   make_table('arcs', beat=beat(m), **cells(m), **hand(m), **tail(m)), make_table('chains', beat=beat(m), **cells(m), **hand(m), **tail(m)),
                   make_table('events', beat=beat(m), type=rng.integers(0, 6, m), value=rng.integers(0, 5, m)),
                   tempos=make_table('tempos', beat=[3, 5], bpm=[77, 300]) if wild else make_table('tempos'), bpm=draw(st.sampled_from([60., 120., 195., 222.])))


def mirror(m):
    "A map as a left-handed player sees it."
    def flip(table):
        table, names = table.copy(), table.dtype.names
        for c in ('x', 'tail_x'):
            if c in names: table[c] = 3 - table[c]
        if 'color' in names: table['color'] = 1 - table['color']
        for c in ('direction', 'tail_direction'):
            if c in names: table[c] = MIRRORED[table[c]]
        if 'angle' in names: table['angle'] = -table['angle']
        return table
    return m.replace(**{k: flip(getattr(m, k)) for k in ('notes', 'bombs', 'walls', 'arcs', 'chains')})


def shift(m, beats):
    def later(table):
        table = table.copy()
        for c in ('beat', 'tail_beat'):
            if c in table.dtype.names: table[c] += beats
        return table
    return m.replace(**{k: later(getattr(m, k)) for k in DTYPES})


def same(a, b): return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@laws
@given(maps(), st.sampled_from(list(VISION)))
def test_a_mirrored_map_has_the_same_findings(m, name):
    assert same(find_flow(m, name), find_flow(mirror(m), name))
    a, b = swings(m), swings(mirror(m))
    for c in ('first', 'last', 'n_notes', 'beat', 'parity', 'error', 'reset', 'free'): assert np.array_equal(a[c], b[c])
    assert np.array_equal(a['color'], 1 - b['color']) and np.allclose(a['turn'], b['turn'], equal_nan=True)


@laws
@given(maps(), st.sampled_from([1, 7.5, 64, 1000.0625]), st.sampled_from(list(VISION)))
def test_a_later_map_has_the_same_findings(m, beats, name):
    assert same(find_flow(m, name), find_flow(shift(m, beats), name))
    assert np.allclose(swings(shift(m, beats))['beat'], swings(m)['beat'] + beats)


@laws
@given(maps(wild=True), st.sampled_from(list(VISION)), st.floats(.1, 99), st.floats(-5, 5))
def test_wild_maps_are_checked_and_every_index_is_of_its_table(m, name, njs, offset):
    found, counts, said = find_flow(m, name), errors_by_check(m, name), check_flow(m, name, njs, offset, 'Hard.dat')
    for key, rows in found.items():
        assert rows.dtype.kind == 'i' and len(rows) == counts[key] == sum(f.check == key for f in said)
        first = rows[:, 0] if rows.ndim == 2 else rows
        assert ((first >= 0) & (first < len(getattr(m, FLOW_CHECKS[key].table)))).all()
    for f in said: assert f.severity in SEVERITIES and f.what and '{' not in f.what and f.where == 'Hard.dat'
    number, s = note_swings(m), swings(m)
    assert np.array_equal(np.bincount(number[number >= 0], minlength=len(s)), s['n_notes']) and ((number < 0) == ~np.isin(m.notes['color'], (0, 1))).all()


# --- plain loops ---

def slow_swings(m):
    "Groups of blocks by walking through them, the first block of each in order."
    groups = []
    for color in (0, 1):
        last = None
        for i in np.flatnonzero(m.notes['color'] == color).tolist():
            beat = m.notes['beat'][i]
            if last is not None and (beat - m.notes['beat'][last] <= 1/8 + 1e-6 or m.seconds(beat) - m.seconds(m.notes['beat'][last]) <= .07 + 1e-6): groups[-1].append(i)
            else: groups.append([i])
            last = i
    return sorted(groups)


def sides(notes, group):
    "Can a swing be cut (backhand, forehand), and what does the first arrow show that has one side only?"
    ease = note_ease(notes[group]) > 0
    only = [1 if fore else -1 for back, fore in ease.tolist() if back != fore]
    return ease.all(0).tolist(), only[0] if only else 0


def slow_parity(m):
    "Side and error of each swing by walking through both hands."
    groups, out = slow_swings(m), {}
    for color in (0, 1):
        mine, before, wait = [g for g in groups if m.notes['color'][g[0]] == color], None, None
        for k, g in enumerate(mine):
            begin = m.notes['beat'][g[0]]
            rest = before is None or m.seconds(begin) - m.seconds(before) > 1 + 1e-6
            bombs = [(b['beat'], int(b['x'] == 1 + color), b['y']) for b in m.bombs if b['x'] in (1, 2) and b['y'] in (0, 2)
                     and b['beat'] < begin - 1/128 and (before is None or b['beat'] > before + .25 + 1/128)]
            reset = {None: 0, 0: 1, 2: -1}[max(bombs, key=lambda b: b[:2])[2] if bombs else None]
            (back, fore), only = sides(m.notes, g)
            sure = (1 if fore else -1) if fore != back else (reset if fore else only)
            if rest and wait: settle(out, wait, None)
            if rest: wait = []
            if wait is not None and not sure: wait.append((g[0], back, fore))
            elif wait is not None: settle(out, wait, sure); wait = None
            if sure:
                wanted = sure if rest else reset or -out[mine[k-1][0]][0]
                out[g[0]] = sure, not (fore if wanted > 0 else back)
            elif wait is None: out[g[0]] = -out[mine[k-1][0]][0], False
            before = m.notes['beat'][g[-1]]
        if wait: settle(out, wait, None)
    return [out[g[0]] for g in groups]


def settle(out, wait, sure):
    "Swings that could be on either side: back from the sure one, or from forehand on."
    for k, (first, back, fore) in enumerate(wait): out[first] = ((-1)**k if sure is None else sure*(-1)**(len(wait) - k), False)


def test_plain_loops_find_the_same_swings_and_sides_in_dense_and_thin_maps():
    rng = derive_rng('plain')
    for round in range(150):
        n, k, m = rng.integers(0, 50), rng.choice([4, 16, 60]), rng.integers(0, 8)
        b = Beatmap(make_table('notes', beat=rng.integers(0, 16*k, n)/16, x=rng.integers(0, 4, n), y=rng.integers(0, 3, n), color=rng.integers(0, 2, n), direction=rng.integers(0, 9, n)),
                    make_table('bombs', beat=rng.integers(0, 16*k, m)/16, x=rng.integers(0, 4, m), y=rng.integers(0, 3, m)), bpm=float(rng.choice([60, 120, 200])))
        s, groups = swings(b), slow_swings(b)
        assert [(g[0], g[-1], len(g)) for g in groups] == list(zip(s['first'].tolist(), s['last'].tolist(), s['n_notes'].tolist()))
        assert slow_parity(b) == list(zip(s['parity'].tolist(), s['error'].tolist())), round


@laws
@given(maps())
def test_plain_loops_clap_and_hammer_alike(m):
    n, t, bombs = m.notes, m.seconds(m.notes['beat']), m.bombs
    angle = cut_angle(n['direction'], n['angle'])
    aim = lambda i, o: angle_between(angle[i], vector_angle((int(o['x']) - int(n['x'][i]), int(o['y']) - int(n['y'][i]))))
    apart = lambda a, b: np.hypot(int(a['x']) - int(b['x']), int(a['y']) - int(b['y']))
    claps = [[i, j] for i in range(len(n)) for j in range(i + 1, len(n)) if n['color'][i] != n['color'][j] and t[j] - t[i] <= .01
             and any(apart(n[i], n[j]) <= c and max(aim(i, n[j]), aim(j, n[i])) <= d + 1e-6 for c, d in ((1, 45), (1.5, 30), (2, 15)))]
    hits = [[i, j] for i in range(len(n)) for j, b in enumerate(bombs) if -.125 - 1e-6 <= m.seconds(b['beat']) - t[i] <= .075 + 1e-6 and apart(n[i], b) <= 2 and aim(i, b) <= 15 + 1e-6]
    assert handclaps(m).tolist() == claps and hammer_hits(m).tolist() == hits


# --- hostile ---

def test_everything_at_one_instant_takes_bounded_memory_and_time():
    n = 20_000
    m = Beatmap(make_table('notes', beat=np.full(n, 4.), x=np.arange(n) % 4, y=np.arange(n) % 3, color=np.arange(n) % 2, direction=np.arange(n) % 9), make_table('bombs', beat=np.full(n, 4.), x=1, y=1))
    tracemalloc.start(); begin = time.perf_counter()
    counts = errors_by_check(m)
    peak, took = tracemalloc.get_traced_memory()[1], time.perf_counter() - begin; tracemalloc.stop()
    assert counts['stacked note'] == n - 12 and peak < 3e8 and took < 20


def test_times_far_away_are_only_far_away():
    m = Beatmap(make_table('notes', beat=[-9e8, 0, 9e8], color=[0, 1, 1], x=2**31 - 1, y=-2**31, direction=[2**31 - 1, -2**31, 1]), make_table('bombs', beat=9e8, x=-2**31, y=2**31 - 1), bpm=1e-3)
    assert all(v >= 0 for v in errors_by_check(m).values()) and len(swings(m)) == 3


def test_an_unknown_difficulty_is_said_in_a_line():
    for f in (find_flow, errors_by_check, check_flow, vision_blocks):
        with pytest.raises(BadInput, match="'Expert Plus' is no difficulty; one of Easy"): f(Beatmap(), 'Expert Plus')
    with pytest.raises(BadInput, match='above 0'): check_flow(Beatmap(), njs=0.)
