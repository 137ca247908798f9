"Tables of ratings that nobody would write on purpose, MIDI pedals of any shape, and stores that are finished by another process."
import csv, json, os, subprocess, sys
from pathlib import Path
import mido, numpy as np, pytest
from hypothesis import HealthCheck, assume, given, settings, strategies as st
from audioml.core import BadInput
from audioml.midi import *
from audioml.piano.data import *
from audioml.piano.synth import *

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Six recordings that exist by name; what they hold is not looked at before a store is built."
    d = tmp_path_factory.mktemp('rated')
    for i in range(6): (d/f'{i}.wav').touch(); (d/f'{i}.mid').touch()
    (d/'notes.txt').touch(); (d/'folder.wav').mkdir()
    return d

def write(folder, header, rows):
    with open(folder/'t.csv', 'w', newline='', encoding='utf8') as f: csv.writer(f).writerows([header, *rows])
    return folder/'t.csv'

files = st.sampled_from([f'{i}.{s}' for i in range(6) for s in ('wav', 'mid')] + ['./1.wav', '../x.wav', 'no.wav', 'notes.txt', 'folder.wav', '', ' ', 'a\0b.wav', 'x'*300 + '.wav'])
good = st.floats(1, 7).map(lambda v: f'{v:.3f}')
cells = st.one_of(good, good, good, st.sampled_from(['', 'nan', 'NA', '-', '0', '8', '-3', 'inf', '1e400', 'loud', '7.0000001', '１']), st.text(max_size=5))

@quick
@given(st.lists(st.tuples(files, st.lists(cells, min_size=1, max_size=4)), max_size=12))
def test_any_table_has_an_outcome(folder, rows):
    "Each row that is not blank is a clip or a line that names it; every rating that is used is on the scale; no file is there twice."
    rows = [(name, (values*3)[:3] if len(values) > 1 else values) for name, values in rows]
    path = write(folder, ['file', '1', '5', 'Interpretation doubtful-convincing'], [[n, *v] for n, v in rows])
    try: clips = find_rated(path, scale=7)
    except BadInput as e: assert str(e).count('\n') == 0 and 't.csv' in str(e); return
    full = [r for r in csv.reader(path.read_text(encoding='utf8').splitlines(keepends=True))][1:]
    assert len(clips) + len(clips.skipped) == sum(any(x.strip() for x in r) for r in full)
    assert all('\n' not in s and 't.csv, row ' in s for s in clips.skipped)
    assert len({Path(c.source.path).resolve() for c in clips}) == len(clips)
    for c in clips:
        r = np.array(c.ratings)
        assert r.shape == (19,) and not np.isnan(r).all() and (np.isnan(r) | (r >= 1/7 - 1e-9) & (r <= 1)).all() and np.isnan(np.delete(r, [0, 4, 18])).all()

@quick
@given(st.lists(st.lists(st.one_of(st.floats(1, 7), st.none()), min_size=19, max_size=19).filter(any), min_size=1, max_size=6), st.booleans())
def test_ratings_come_back(folder, ratings, points):
    "What is written is what is read, on either scale, in any order of the columns."
    order = np.random.default_rng(len(ratings)).permutation(19)
    rows = [[f'{i}.wav', *('' if r[j] is None else repr(r[j]/(1 if points else 7)) for j in order)] for i, r in enumerate(ratings)]
    clips = find_rated(write(folder, ['file', *(DIMENSIONS[j] for j in order)], rows), scale=7 if points else 1)
    assert not clips.skipped
    np.testing.assert_allclose([c.ratings for c in clips], [[np.nan if v is None else v/7 for v in r] for r in ratings], rtol=1e-9)

@quick
@given(st.binary(max_size=200))
def test_bytes_that_are_no_table(folder, data):
    (folder/'b.csv').write_bytes(data)
    with pytest.raises(BadInput) as e: find_rated(folder/'b.csv')
    assert '\n' not in str(e.value)

@quick
@given(st.lists(st.text(max_size=12), max_size=4))
def test_unknown_columns(folder, columns):
    "A column that is not known is an error, not a rating that is silently lost."
    known = {'file', 'piece', 'player', 'segment', 'composer', *map(str, range(1, 20)), *(d.lower() for d in DIMENSIONS)}
    assume(any(c.strip().lower() not in known for c in columns))
    with pytest.raises(BadInput): find_rated(write(folder, ['file', '1', *columns], [['0.wav', '4', *(['']*len(columns))]]))

def test_scale_by_majority(folder):
    "One slip does not turn shares into points, nor points into shares."
    rows = [[f'{i}.wav', .5, .6] for i in range(5)]
    clips = find_rated(write(folder, ['file', '1', '2'], rows + [['5.wav', .5, 6]]))
    assert len(clips) == 5 and clips[0].ratings[0] == .5 and "row 7: column '2' is '6'" in clips.skipped[0]
    clips = find_rated(write(folder, ['file', '1', '2'], [[f'{i}.wav', 5, 6] for i in range(5)] + [['5.wav', .5, 6]]))
    assert len(clips) == 5 and abs(clips[0].ratings[0] - 5/7) < 1e-9 and "row 7: column '1' is '0.5'" in clips.skipped[0]

def test_rows_say_where_they_are(folder):
    "Blank lines are no rows, and do not shift the numbers of others."
    (folder/'t.csv').write_text('file,1\n\n\n0.wav,4\n,,\nno.wav,4\n')
    clips = find_rated(folder/'t.csv', scale=7)
    assert [c.id for c in clips] == ['0.wav'] and clips.skipped == ["t.csv, row 6: column 'file' is 'no.wav': no such file"]


presses = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 200), st.integers(0, 127)), max_size=40)

@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(presses, st.integers(1, 400))
def test_pedal_of_any_file(tmp_path, events, note_end):
    "The pedal is down where, by the file's own events, it is down on some channel but the drums'."
    song, track = mido.MidiFile(ticks_per_beat=480), mido.MidiTrack(); song.tracks.append(track)
    messages = [mido.Message('control_change', channel=c, control=64, value=v, time=t) for c, t, v in sorted(events, key=lambda e: e[1])]
    messages += [mido.Message('note_on', note=60, velocity=9, time=0), mido.Message('note_off', note=60, time=note_end)]
    tick = 0
    for m in sorted(messages, key=lambda m: m.time): track.append(m.copy(time=m.time - tick)); tick = m.time
    song.save(tmp_path/'p.mid')
    end, down = tick, np.zeros((16, tick + 1), bool)
    for m in (m for m in sorted(messages, key=lambda m: m.time) if m.type == 'control_change'): down[m.channel, m.time:] = m.value >= 64
    down = np.delete(down, 9, 0)[:, :end].any(0)
    got, second = np.zeros(end, bool), 960
    for p in read_performance(tmp_path/'p.mid').pedals.itertuples(): got[round(p.onset*second):round((p.onset + p.duration)*second)] = True
    assert (got == down).all()

@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0, 5)), max_size=20), st.lists(st.tuples(st.floats(0, 20), st.integers(58, 62), st.floats(.01, 4)), min_size=1, max_size=30))
def test_sustain_laws(presses, keys):
    "The pedal never shortens a note but where its key is struck again, and with it twice nothing changes."
    pedals, (on, pitch, length) = make_pedals(*zip(*presses)) if presses else make_pedals(), zip(*keys)
    notes = make_notes(on, pitch, 80, length, is_drum=False); once = sustain(notes, pedals); plain = trim_overlaps(notes)
    assert (once.onset == notes.onset).all() and (once.duration >= plain.duration - 1e-9).all()
    gap = notes.groupby('pitch').onset.shift(-1) - notes.onset
    assert ((once.duration <= gap.clip(lower=.001) + 1e-9) | gap.isna()).all()
    np.testing.assert_allclose(sustain(once, pedals).duration, once.duration, atol=1e-9)


BUILD = '''
import sys
from audioml.piano.data import *
clips = embedded_clips(2, 2, 1)
store = piano_store(sys.argv[1], [r for c in clips for r in renders(c, 1)], n_workers=int(sys.argv[2]), progress=False)
print(store.index.crc.tolist())
'''

def test_stores_are_the_same_everywhere(tmp_path):
    "Another process, with workers or without, makes the same bytes; a second build keeps them."
    def build(name, workers): return subprocess.run([sys.executable, '-c', BUILD, str(tmp_path/name), str(workers)], capture_output=True, text=True, check=True, env={**os.environ, 'OMP_NUM_THREADS': '1'}).stdout
    assert build('a', 0) == build('b', 2) == build('a', 0)

def test_folds_do_not_depend_on_the_order_of_renders(tmp_path):
    clips = embedded_clips(4, 3, 2); index = Clips(r for c in clips for r in renders(c, 2)).table()
    for by in ('segment', 'piece', 'player'):
        assert folds_of(index, by, 3) == folds_of(Clips(clips).table(), by, 3)

@pytest.mark.skipif('AUDIOML_DATA' not in os.environ, reason='AUDIOML_DATA is not set')
def test_every_label_has_its_file():
    folder = Path(os.environ['AUDIOML_DATA'])/'percepiano'; clips = find_percepiano(folder)
    labels = json.loads(next(folder.glob('label_2round_mean*')).read_text())
    assert {c.id for c in clips} == {''.join(k.split()) for k in labels} and not clips.skipped and len(clips) == 1043
    by_id = {''.join(k.split()): v for k, v in labels.items()}
    assert all(list(c.ratings) == by_id[c.id][:19] and len(c.spread) == 19 for c in clips)
