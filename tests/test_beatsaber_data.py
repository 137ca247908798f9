"Packages of strangers in a store of maps: builds that are killed, changed and shared out, collections, and slots at any tempo."
import io, json, os, re, shutil, time, zipfile
from multiprocessing import get_context
import numpy as np, pytest, soundfile as sf
from hypothesis import given, settings, strategies as st
from audioml.audio import AudioClip
from audioml.beatsaber.beatmap import *
from audioml.beatsaber.data import *
from audioml.beatsaber.level import *
from audioml.beatsaber.structure import FPS
from audioml.beatsaber.tokenizer import MapTokenizer
from audioml.core import BadInput, derive_rng

quick = settings(max_examples=60, deadline=None)
SECONDS = 18.

def a_map(seed, n=40, bpm=120.):
    rng = derive_rng('map', seed)
    return Beatmap(notes=make_table('notes', beat=np.sort(rng.choice(np.arange(4, 34, .25), n, replace=False)), x=rng.integers(0, 4, n), y=rng.integers(0, 3, n), color=rng.integers(0, 2, n), direction=rng.integers(0, 9, n)),
                   events=make_table('events', beat=np.arange(30.), type=1, value=3), bpm=bpm)

def package(path, seed, characteristic='Standard', names=('Hard', 'Expert'), seconds=SECONDS, **level):
    clip = AudioClip(derive_rng('sound', seed).normal(0, .1, int(22050*seconds)).astype(np.float32), 22050)
    return write_level(Level(f'song {seed}', bpm=120., difficulties=tuple(Difficulty(n, a_map(seed), characteristic) for n in names), **level), path, clip)

def rezip(path, **changes):
    "A zip with other bytes in some files; None leaves one out."
    with zipfile.ZipFile(path) as z: files = {n: z.read(n) for n in z.namelist()}
    with zipfile.ZipFile(path, 'w') as z:
        for n, b in files.items():
            b = changes[n](b) if n in changes else b
            if b is not None: z.writestr(n, b)

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    d = tmp_path_factory.mktemp('maps')
    for i in range(5): package(d/f'{i}.zip', i)
    return d

@pytest.fixture(scope='module')
def store(folder, tmp_path_factory): return map_store(tmp_path_factory.mktemp('stores')/'s', find_sources(folder), progress=False)

def same_store(a, b):
    assert a.index.equals(b.index) and not b.verify()
    for k in a.streams: np.testing.assert_array_equal(np.concatenate([a.rows(i, k) for i in a.ids]), np.concatenate([b.rows(i, k) for i in b.ids]))

def test_workers_change_nothing(folder, store, tmp_path):
    same_store(store, map_store(tmp_path/'s', find_sources(folder, 2), n_workers=2, progress=False))

def slowly(path, folder):
    from audioml.beatsaber import data
    make = data.song_rows
    def slow(source): time.sleep(.6); return make(source)
    data.song_rows = slow
    data.map_store(path, find_sources(folder), progress=False)

def test_a_killed_build_is_finished(folder, store, tmp_path):
    child = get_context('fork').Process(target=slowly, args=(tmp_path/'s', folder)); child.start()
    journal, end = tmp_path/'s'/'journal.jsonl', time.time() + 60
    while time.time() < end and child.is_alive() and (not journal.exists() or journal.read_bytes().count(b'\n') < 3): time.sleep(.05)
    child.kill(); child.join()
    assert 3 <= journal.read_bytes().count(b'\n') < 7 and not (tmp_path/'s'/'store.json').exists()
    done = map_store(tmp_path/'s', find_sources(folder), progress=False)
    assert journal.read_bytes().count(b'\n') == 7 # header, streams and five songs: none was made twice
    same_store(store, done)

def test_what_changed_is_made_again(folder, tmp_path):
    maps = tmp_path/'maps'; shutil.copytree(folder, maps); sources = [(f'song{i}', Package(str(maps/f'{i}.zip'))) for i in range(3)]
    first = map_store(tmp_path/'s', sources, progress=False); old = [first.rows(f'song{i}').copy() for i in range(3)]
    package(maps/'1.zip', 77); again = map_store(tmp_path/'s', sources, progress=False)
    assert [np.array_equal(again.rows(f'song{i}'), old[i]) for i in range(3)] == [True, False, True] and again.beatmap('song1', 'Hard') == a_map(77)
    with pytest.raises(BadInput, match='no map Easy'): again.beatmap('song1', 'Easy')

def an_hour(b): out = io.BytesIO(); sf.write(out, np.zeros(3600*1000, np.float32), 1000, format='FLAC'); return out.getvalue()

BAD = dict(long=(dict(song=an_hour), 'lasts 3600 s; at most 900'), silent=(dict(song=lambda b: None), 'no file'), noise=(dict(song=lambda b: b'noise'*99), 'is not audio'), cut=(dict(song=lambda b: b[:len(b)//2]), 'truncated or damaged|damaged'),
           empty=(dict(song=lambda b: b''), 'is an empty file'), shifted=(dict(info=lambda b: b.replace(b'"_songTimeOffset": 0', b'"_songTimeOffset": 0.5')), r'starts its song 0.5 s off'),
           wild=(dict(info=lambda b: b'[]'), 'holds no JSON object'), lost=(dict(hard=lambda b: b[:99]), 'is not JSON'))

def test_bad_packages_are_named(folder, tmp_path):
    maps = tmp_path/'maps'; maps.mkdir(); shutil.copy(folder/'0.zip', maps)
    for name, (changes, _) in BAD.items():
        package(maps/f'{name}.zip', name)
        rezip(maps/f'{name}.zip', **{dict(song='song.egg', info='Info.dat', hard='HardStandard.dat')[k]: f for k, f in changes.items()})
    package(maps/'lawless.zip', 8, 'Lawless'); package(maps/'short.zip', 9, seconds=12.); shutil.copy(maps/'0.zip', maps/'again.zip')
    sources = [(s.path, s) for _, s in find_sources(maps)]; store = map_store(tmp_path/'s', sources, lambda i: 'train', progress=False)
    assert len(store) == 1
    errors = {os.path.basename(r.id): r.error for r in store.skipped.itertuples()}
    want = {f'{n}.zip': w for n, (_, w) in BAD.items()} | {'lawless.zip': 'has no wanted difficulty', 'short.zip': 'Hard lasts 12.0 s', 'again.zip': 'is the same map'}
    assert errors.keys() == want.keys()
    for n, w in want.items(): assert re.search(w, errors[n]) and '\n' not in errors[n] and ('/tmp' not in errors[n] or str(maps) in errors[n]), (n, errors[n])

def test_nothing_to_learn_from(tmp_path):
    (tmp_path/'x').mkdir(); (tmp_path/'x'/'a.zip').write_bytes(b'no zip')
    with pytest.raises(BadInput, match='none of 1 songs'): map_store(tmp_path/'s', find_sources(tmp_path/'x'), progress=False)
    with pytest.raises(BadInput, match='is no folder'): find_sources(tmp_path/'y')
    with pytest.raises(BadInput): MapStore(tmp_path/'s')

def test_collections_bring_marks_and_ratings(folder, tmp_path):
    c = tmp_path/'c'; c.mkdir(); rows = []
    for i, (marks, tags, rating) in enumerate([(['ranked'], ['tech', 'j-rock'], .9), (['curated', 'verified'], ['house'], .8), ([], [], .85)]):
        h = read_level(folder/f'{i}.zip').hash; shutil.copy(folder/f'{i}.zip', c/f'{h}.zip')
        rows.append(dict(id=f'{i:x}', hash=h, category=(marks or ['any'])[0], marks=marks, tags=tags, rating=rating, split='train'))
    (c/'maps.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in rows))
    store = map_store(tmp_path/'s', find_sources(c), progress=False)
    assert [r['hash'] for r in rows] == store.ids and store.index['genre'].tolist() == ['rock', 'dance', '']
    assert store.songs(exclude=('ranked',)) == store.ids[1:] and store.songs(exclude=('house', 'any')) == store.ids[:1]
    one = {i: store.song(i)['weight'] for i in store.ids}; plain = map_store(tmp_path/'p', [(i, Package(str(c/f'{i}.zip'), rating=1.)) for i in store.ids], progress=False)
    np.testing.assert_allclose([one[i]/plain.song(i)['weight'] for i in store.ids], [1.8, 1.6, .85])
    assert set(store.index['split']) >= {'train', 'valid'}

def test_a_song_shorter_than_a_window(store):
    ds = OnsetWindows(store, store.index['split'].iloc[0]); (x, mask, _), soft, hard = ds[0]; assert x.shape == (1024, 98) and np.isfinite(x).all()
    bars = NoteWindows(store, MapTokenizer(), store.index['split'].iloc[0]); (ids, row, memory, inside), labels = bars[len(bars) - 1]
    assert np.isfinite(memory).all() and not inside.all() and memory[~inside, :80].max() < -11

timings = st.builds(lambda bpm, at, bpms: Timing(bpm, make_table('tempos', beat=np.array(sorted(at)[:len(bpms)], float), bpm=np.array(bpms[:len(at)], float))),
                    st.floats(20, 700), st.lists(st.integers(1, 60), max_size=4, unique=True), st.lists(st.floats(20, 700), max_size=4))

@quick
@given(timings, st.integers(0, 80), st.integers(1, 4000))
def test_slots_hold_the_mean_of_their_frames(timing, beat, n_frames):
    cfg = SlotConfig(); x = derive_rng('frames', n_frames).random((n_frames, 2)); means, inside = slot_means(x, timing, float(beat), cfg)
    edges = timing.seconds(beat + (np.arange(-cfg.past, cfg.future + 1) - .5)/cfg.per_beat)*FPS + .5
    for k in range(0, cfg.n, 23):
        a, b = np.clip(edges[k:k + 2], 0, n_frames); assert inside[k] == (b - a > .5*(edges[k+1] - edges[k]))
        if not inside[k]: assert not means[k].any(); continue
        i = np.arange(int(a), int(np.ceil(b))); w = np.minimum(i + 1, b) - np.maximum(i, a)
        np.testing.assert_allclose(means[k], (w[:, None]*x[i]).sum(0)/w.sum(), atol=1e-4)
    peaks = slot_peaks(x[:, 0], timing, float(beat), cfg); assert peaks.shape == (cfg.n,) and (peaks <= 1).all() and np.isfinite(peaks).all()

@quick
@given(st.lists(st.floats(.01, 100), min_size=1, max_size=200), st.integers(0, 9))
def test_items_come_as_often_as_they_weigh(weights, epoch):
    n = len(weights); got = weighted_order(weights)(n, 0, epoch); want = np.array(weights)*n/np.sum(weights)
    assert len(got) == n and (np.abs(np.bincount(got, minlength=n) - want) < 1 + 1e-6).all()
