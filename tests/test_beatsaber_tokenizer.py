"Laws of map and light tokens over maps, token sequences and customData of any kind."
import numpy as np, torch
from hypothesis import given, settings, strategies as st
from audioml.beatsaber.beatmap import *
from audioml.beatsaber.chroma import *
from audioml.beatsaber.tokenizer import *
from audioml.core import derive_rng
from audioml.tokenizers import *

SETTINGS = settings(max_examples=60, deadline=None)
CONFIGS = [(MapTokenizer, {}), (MapTokenizer, dict(beats_per_bar=3, steps_per_beat=5, fine_steps=3, angle_step=45, max_beats=2, max_slices=4)),
           (LightTokenizer, {}), (LightTokenizer, dict(steps_per_beat=2, fine_steps=2, brightness_step=.5, max_brightness=1.))]
TOKENIZERS = [make(make.config_class(**cfg)) for make, cfg in CONFIGS]
tokenizers = st.sampled_from(TOKENIZERS)

BEATS = st.one_of(st.floats(-2, 40), st.integers(0, 20).map(lambda k: k/4), st.sampled_from([1e8, float('nan'), 1e300]))
FLOATS = st.one_of(st.floats(-2, 6), st.sampled_from([0., 1., 1e9, float('nan')]))
INTS = st.one_of(st.integers(0, 5), st.sampled_from([-1, 8, 9, 13, 20, 21, 45, 1000, 1360, -2**31, 2**31 - 1]))
COLORS = st.one_of(st.just('red'), st.just([1, None, 0]), st.lists(st.floats(0, 2), max_size=4))
EXTRAS = st.one_of(st.none(), st.just(dict(customData=[])), COLORS.map(lambda c: dict(customData=dict(color=c))))


@st.composite
def tables(draw, kind):
    n = draw(st.integers(0, 6)); dtype = DTYPES[kind]; rows = lambda s: draw(st.lists(s, min_size=n, max_size=n))
    values = lambda c: BEATS if c in ('beat', 'tail_beat') else st.booleans() if c == 'on' else FLOATS if dtype[c] == float else INTS
    columns = {c: rows(values(c)) for c in dtype.names[:-1]}
    return make_table(kind, **{c: np.array(v, dtype[c]) for c, v in columns.items()}, extra=rows(EXTRAS))


maps = st.fixed_dictionaries({k: tables(k) for k in (*MAP_OBJECTS, *LIGHT_OBJECTS)}).map(lambda t: Beatmap(**t))


@SETTINGS
@given(maps, tokenizers)
def test_whatever_a_map_holds(m, tok):
    "Anything is encoded without error, grammatical, and comes back exactly on the grid; what is lost is counted."
    on_grid, ids = tok.snap(m), tok.encode(m)
    tok.grammar.check(ids, whole=True)
    assert tok.decode(ids, m, strict=True) == on_grid and tok.snap(on_grid) == on_grid
    assert np.array_equal(tok.encode(on_grid), ids) and np.array_equal(tok.encode(tok.decode(ids)), ids)
    lost = tok.dropped(m)
    assert sum(len(getattr(m, k)) for k in tok.objects) == sum(len(getattr(on_grid, k)) for k in tok.objects) + lost['unknown'] + lost['time'] + lost['merged']
    assert read_beatmap(write_beatmap(on_grid)) == on_grid
    e = tok.grid_errors(m)
    assert (e[e.attribute == 'beat']['max'] <= .5/tok.cfg.ticks + 1e-9).all()


@SETTINGS
@given(maps, tokenizers, st.integers(0, 8), st.integers(1, 5), st.integers(0, 4))
def test_parts_make_the_whole(m, tok, first, bars, more):
    "The tokens of parts of whole bars, one after the other, are those of the whole; a part decodes to the objects that begin in it."
    per = tok.cfg.beats_per_bar; cuts = [first + per*b for b in (0, bars, bars + more)]
    parts = [tok.encode(m, a, b) for a, b in zip(cuts, cuts[1:]) if b > a]
    assert np.array_equal(np.concatenate(parts), tok.encode(m, first, cuts[-1]))
    back, on_grid = tok.decode(parts[0], m, start=first), tok.snap(m)
    for k in tok.objects:
        whole = getattr(on_grid, k); inside = whole[(whole['beat'] >= cuts[0]) & (whole['beat'] < cuts[1])]
        assert on_grid.replace(**{k: inside}) == on_grid.replace(**{k: getattr(back, k)})


@SETTINGS
@given(tokenizers, st.lists(st.integers(0, 10**6), max_size=80), st.floats(0, 100))
def test_garbage_decodes(tok, ids, start):
    "Any ids of the vocabulary decode, to a map that can be written, read, and encoded to itself."
    m = tok.decode([i % len(tok.vocab) for i in ids], start=start)
    assert read_beatmap(write_beatmap(m)) == m and tok.snap(m) == m
    assert tok.decode(tok.encode(m)) == m and sum(v for k, v in tok.dropped(m).items()) == 0


def test_masks_never_end_dead():
    "Blind decoders: a next token that the rules permit is there at every step, no cell holds two blocks, and all of it is a map."
    for tok in TOKENIZERS:
        names, family, rng = tok.vocab.names, tok.vocab.family_of(range(len(tok.vocab))), derive_rng('blind', len(tok.vocab))
        allowed = np.arange(len(tok.vocab)) != EOS # to go on for ever
        state, rows = tok.grammar.start(6, allowed=allowed), []
        for _ in range(150):
            mask = state.mask().numpy(); rules = state._permits[state.numbers].all(1).numpy()
            assert mask.any(1).all() and (mask <= rules).all() and not mask[:, EOS].any()
            picked = [rng.choice(np.unique(family[m])) for m in mask] # families evenly, so that moments fill up
            rows.append([int(rng.choice(np.flatnonzero(m & (family == f)))) for m, f in zip(mask, picked)]); state.advance(torch.tensor(rows[-1]))
        for ids in np.array(rows).T:
            tok.grammar.check(ids); m = tok.decode(ids)
            assert sum(len(getattr(m, k)) for k in tok.objects) >= np.isin(tok.vocab.family_of(ids), [names.index(f[0]) for f in tok.objects.values()]).sum() - 1 # the last may be cut off
            if 'notes' in tok.objects: assert len(np.unique(m.notes[['beat', 'x', 'y']])) == len(m.notes)


KEYS = st.sampled_from('color lightID speed prop step track'.split())
json_values = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(-10**30, 10**30), st.floats(), st.text(max_size=3)),
                           lambda x: st.one_of(st.lists(x, max_size=4), st.dictionaries(KEYS, x, max_size=4)), max_leaves=8)


@SETTINGS
@given(json_values, st.sampled_from([0, 5, 8, 9, 12, 99]))
def test_any_custom_data(custom, kind):
    "Checking, detecting and removing Chroma take any customData; what was coloured is valid unless it was broken before."
    m = Beatmap(make_table('notes', beat=1, extra=[dict(customData=custom)]), events=make_table('events', beat=1, type=kind, value=1, extra=[dict(customData=custom)]), extra=dict(customData=custom))
    check_chroma(m); bare = remove_chroma(m)
    assert not suggests_chroma(bare) and all('customData' in f.what for f in check_chroma(bare)) and repr(remove_chroma(bare).events) == repr(bare.events)
    for tok in TOKENIZERS[::2]: tok.encode(m)


@SETTINGS
@given(st.lists(st.tuples(st.floats(0, 60), st.sampled_from([0, 1, 4, 8, 12]), st.integers(0, 12)), max_size=20), st.lists(st.floats(0, 1), min_size=1, max_size=9), st.sampled_from(sorted(PALETTES)))
def test_colours_are_taken_back(events, energy, palette):
    "Colouring is valid, repeatable, and removing the colours gives the map back."
    beat, kind, value = zip(*events) if events else ([], [], [])
    m = Beatmap(events=make_table('events', beat=list(beat), type=list(kind), value=list(value)) if events else make_table('events')); times = np.arange(len(energy))*3.
    coloured = colour_lights(m, energy, times, palette)
    assert not check_chroma(coloured) and remove_chroma(coloured) == m and colour_lights(coloured, energy, times, palette) == coloured
    assert suggests_chroma(coloured) == bool(is_lit(m.events).any())
