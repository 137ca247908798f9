"Maps that nobody made, and histories that nobody wrote: judged or refused in one line, never worse."
import random, time, warnings
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from audioml.core import *
from audioml.beatsaber.beatmap import *
from audioml.beatsaber.quality import *

def odd_map(seed):
    "Any numbers that a file may hold: times far apart or the same, cells off the grid, colours of no hand, dots, tempo changes."
    rng = derive_rng('odd', seed)
    n, span = int(rng.choice([0, 1, 2, 3, 12, 200])), float(rng.choice([0, .1, 8, 300, 1e8]))
    beat = rng.uniform(-1, 1, n)*span if rng.random() < .5 else np.round(rng.uniform(0, 1, n)*span)
    notes = make_table('notes', beat=beat, x=rng.integers(-3000, 4000, n) if rng.random() < .3 else rng.integers(0, 4, n), y=rng.integers(0, 3, n),
                       color=rng.integers(0, rng.choice([1, 2, 5]), n), direction=8 if rng.random() < .2 else rng.integers(0, 9, n), angle=rng.integers(-400, 400, n))
    return Beatmap(notes, bpm=float(rng.choice([1., 120., 9e5])), tempos=make_table('tempos', beat=[1., 5.], bpm=[60., 240.]) if rng.random() < .3 else make_table('tempos'))

@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_any_map_is_judged_or_refused(seed):
    beatmap, onsets = odd_map(seed), None if seed % 2 else derive_rng('onsets', seed).uniform(-5, 60, seed % 40)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        try: table = judge(beatmap, onsets)
        except BadInput as e: assert 'notes' in str(e) and len(np.unique(beatmap.notes['beat'])) < 2; return
    assert not np.isinf(table[['map', *CONTROLS]].to_numpy(float)).any()
    assert 0 <= table['map']['score'] <= 1 and table['map']['score'] == score(beatmap, onsets)

@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_controls_keep_their_promises(seed):
    beatmap = odd_map(seed); notes = beatmap.notes
    if len(np.unique(notes['beat'])) < 2: return
    before = notes.copy()
    false = {k: f(beatmap, seed).notes for k, f in CONTROLS.items()}
    assert (notes == before).all() and all(len(n) == len(notes) for n in false.values())
    assert (false['shuffled']['beat'] == notes['beat']).all() and sorted(false['shuffled'][list('xy')].tolist()) == sorted(notes[list('xy')].tolist())
    assert (false['metronome'][['x', 'y', 'direction']] == notes[['x', 'y', 'direction']]).all() and np.diff(false['metronome']['beat']).min() >= 0
    assert (false['zigzag'][['beat', 'color']] == notes[['beat', 'color']]).all()
    assert set(false['random']['color']) <= set(notes['color']) and np.allclose(false['random']['beat'][[0, -1]], notes['beat'][[0, -1]])
    for c, home in ((0, 1), (1, 2)): assert (false['zigzag']['x'][notes['color'] == c] == home).all()

def riff(n=400):
    k = np.arange(n)
    return Beatmap(make_table('notes', beat=k/2 + (k % 8 == 7)/4, x=k % 2 + 1 + (k//8 % 2)*(2*(k % 2) - 1), y=k//2 % 2, color=k % 2, direction=1 - k//2 % 2))

def test_a_damaged_history_is_refused(tmp_path):
    path = tmp_path/'song.json'
    reference = Reference(path, 'riff')
    for day in ('2026-01-02', '2026-01-01'): reference.add(riff(60), day, day)
    assert reference.table().date.tolist() == ['2026-01-01', '2026-01-02']
    whole, rng = path.read_bytes(), random.Random(0)
    for _ in range(400):
        text = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            i = rng.randrange(len(text))
            if rng.random() < .5: text[i] = rng.choice(b'0123456789{}[]",:-neE.\x00\xff')
            else: del text[i:i + rng.randint(1, 200)]
        path.write_bytes(text)
        try: Reference(path, 'riff').table()
        except BadInput as e: assert '\n' not in str(e)
    path.write_bytes(whole)
    assert len(Reference(path, 'riff').runs) == 2
    with pytest.raises(BadInput, match='is not a file'): Reference(tmp_path, 'riff')

def test_a_failed_write_leaves_the_history(tmp_path, monkeypatch):
    reference = Reference(tmp_path/'song.json', 'riff'); reference.add(riff(60), '2026-01-01', 'a')
    kept = reference.path.read_bytes()
    monkeypatch.setattr('os.replace', lambda *_: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(OSError): reference.add(riff(60), '2026-01-02', 'b')
    assert reference.path.read_bytes() == kept and [p.name for p in tmp_path.iterdir()] == ['song.json']

def test_ten_thousand_notes_are_judged_soon():
    start = time.perf_counter(); judge(riff(10_000)); assert time.perf_counter() - start < 5
