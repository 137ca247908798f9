"What a cell cannot show of stores: kill -9, damaged files, processes, a hundred thousand songs."
import json, os, pickle, random, shutil, signal, time
from multiprocessing import get_context
from pathlib import Path
import numpy as np, pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from audioml.core import BadInput, file_hash
from audioml.stores import *
from audioml.testing import check_dataset, check_same
from audioml.windowing import *
from builders import damage, start_builder, wait_for_group
from store_songs import SONGS, make, slow_make, sum_of

FILES = ('features.bin', 'notes.bin', 'index.parquet', 'skipped.csv', 'store.json', 'journal.jsonl')


def hashes(path): return {f: file_hash(path/f) for f in FILES}


# --- killed while building ---

def journalled(path):
    "Ids in the whole lines of a journal."
    try: lines = (path/'journal.jsonl').read_bytes().splitlines(keepends=True)
    except FileNotFoundError: return []
    return [d['id'] for d in (json.loads(line)[1] for line in lines if line.endswith(b'\n')) if 'id' in d]


@pytest.mark.parametrize('n_workers', [0, 2])
def test_killed_and_resumed(tmp_path, n_workers, trace):
    "Killed at random moments and resumed, a store is byte for byte the one that was never interrupted, and nothing journalled is made twice."
    path, rng, before = tmp_path/'killed', random.Random(n_workers), []
    for _ in range(3):
        p = start_builder('store_songs.py', path, n_workers)
        trace.wait_for(rng.randint(12, 30)); time.sleep(rng.uniform(0, .03))
        os.kill(p.pid, signal.SIGKILL); p.wait() # its workers are left to find out for themselves
        wait_for_group(p.pid)
        assert not set(trace.take()) & set(before)
        before = journalled(path)
        with pytest.raises(BadInput): FeatureStore(path)
    assert 5 < len(before) < len(SONGS)
    resumed = build_store(path, SONGS, slow_make, n_workers=n_workers, rate=100, progress=False)
    assert sorted(trace.take() + before) == sorted(resumed.ids)
    assert hashes(path) == hashes(build_store(tmp_path/'whole', SONGS, make, rate=100, progress=False).path)
    assert resumed.verify() == []


def test_two_builders(tmp_path, trace):
    "The second one is told; the first goes on."
    p = start_builder('store_songs.py', tmp_path/'store', 0)
    while not journalled(tmp_path/'store'): time.sleep(.005)
    with pytest.raises(BadInput, match='being built by another process'):
        build_store(tmp_path/'store', SONGS, slow_make, rate=100, progress=False)
    assert p.wait() == 0 and len(FeatureStore(tmp_path/'store')) == len(SONGS)


def test_an_unexpected_error_loses_nothing(tmp_path):
    "A bug in `make` is raised, and the songs before it are kept."
    def broken(n):
        if n == 23: raise ZeroDivisionError
        return make(n)
    items = [(f'{n}', n) for n in range(20, 30)]
    with pytest.raises(ZeroDivisionError): build_store(tmp_path/'s', items, broken, rate=100, progress=False)
    made = []
    def spy(n): made.append(n); return make(n)
    build_store(tmp_path/'s', items, spy, rate=100, progress=False)
    assert made == list(range(23, 30))


# --- bad and changed sources ---

def make_file(path):
    try: return make(int(Path(path).read_text()))
    except (OSError, ValueError) as e: raise e if isinstance(e, BadInput) else BadInput(f'is not a song ({type(e).__name__})', where=path) from None


def test_fifty_files_five_bad(tmp_path):
    "45 are built, the 5 are named with their reason; put right, only they are made."
    files = [tmp_path/f'{i:02}.txt' for i in range(50)]
    for i, f in enumerate(files): f.write_text(str(i+10))
    files[3].write_text('noise'); files[11].write_bytes(b'\xff\xfe\x00'); files[20].unlink(); files[30].write_text(''); files[49].write_text('-5')
    items, made = [(f.stem, f) for f in files], []
    store = build_store(tmp_path/'s', items, make_file, n_workers=2, rate=100, progress=False)
    assert len(store) == 45 and store.skipped['id'].astype(str).str.zfill(2).tolist() == ['03', '11', '20', '30', '49']
    assert all('is not a song' in e or 'cannot be -5' in e for e in store.skipped['error'])
    def spy(path): made.append(path.stem); return make_file(path)
    for i in (3, 11, 20, 30, 49): files[i].write_text(str(i+10))
    os.utime(files[0], (1, 1))       # touched, same content: not made again
    files[7].write_text('999')       # changed: made again
    store = build_store(tmp_path/'s', items, spy, rate=100, progress=False)
    assert sorted(made) == ['03', '07', '11', '20', '30', '49'] and len(store) == 50 and len(store.skipped) == 0
    assert store.ids == [f.stem for f in files] and len(store.read('07')) == 999 and store.verify() == []


def test_songs_that_do_not_fit(tmp_path):
    "Other streams, other shapes, objects and empty songs are skipped; all bad is an error of one line."
    odd = {'shape': dict(features=np.zeros((5, 9), np.float16), notes=np.zeros(1, np.float32)), 'missing': dict(features=np.zeros((5, 8), np.float16)),
           'empty': make(0), 'objects': dict(features=np.array([None]), notes=np.zeros(1)), 'meta': make(9) | dict(meta=dict(a=[1]))}
    items = [('good', None)] + [(k, k) for k in odd]
    store = build_store(tmp_path/'s', items, lambda s: make(30) if s is None else odd[s], rate=100, progress=False)
    assert store.ids == ['good'] and store.skipped['id'].tolist() == list(odd)
    with pytest.raises(BadInput, match='none of 2 songs could be used; the first: here: cannot be -1') as e:
        build_store(tmp_path/'t', [('a', -1), ('b', -2)], make, progress=False)
    assert '\n' not in str(e.value)
    with pytest.raises(BadInput, match="'a' is there twice"): build_store(tmp_path/'u', [('a', 1), ('a', 2)], make, progress=False)


def test_another_config(tmp_path):
    items = [('a', 30)]
    build_store(tmp_path/'s', items, make, config=dict(n_mels=80), rate=100)
    with pytest.raises(BadInput, match='another config'): build_store(tmp_path/'s', items, make, config=dict(n_mels=96), rate=100)
    assert build_store(tmp_path/'s', items, make, config=dict(n_mels=96), rate=100, overwrite=True).config == dict(n_mels=96)


# --- damaged files ---

@pytest.fixture(scope='module')
def good(tmp_path_factory):
    return build_store(tmp_path_factory.mktemp('good')/'s', [(f'{n}', n) for n in range(20, 32)], make, rate=100, progress=False)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FILES), st.floats(0, 1), st.sampled_from(['cut', 'flip', 'zeros', 'insert']))
def test_damage_is_told_or_repaired(good, tmp_path_factory, file, at, what):
    "A damaged file gives one clear line or a store of the right shape, never another exception; the next build makes it whole."
    path = tmp_path_factory.mktemp('d')/'s'
    shutil.copytree(good.path, path); damage(path/file, at, what)
    try: assert len(FeatureStore(path)) <= len(good)
    except BadInput as e: assert '\n' not in str(e)
    items = [(f'{n}', n) for n in range(20, 32)]
    again = build_store(path, items, make, rate=100, progress=False)
    assert again.ids == good.ids
    bad = again.verify()
    assert not bad or file in ('features.bin', 'notes.bin') # whoever changes rows in place is found out, not repaired
    for song_id in set(again.ids)-set(bad): assert np.array_equal(again.read(song_id), make(int(song_id))['features'])
    shutil.rmtree(path)


def test_what_the_lines_say(good, tmp_path):
    def store(file, change):
        path = tmp_path/f'{file}{random.random()}'; shutil.copytree(good.path, path)
        change(path/file); return path
    cases = [('features.bin', lambda f: os.truncate(f, 100), 'is 100 bytes long, the index speaks of'), ('notes.bin', Path.unlink, 'no such file'),
             ('index.parquet', lambda f: f.write_bytes(b'PAR1 no'), 'index cannot be read'), ('index.parquet', Path.unlink, 'index cannot be read'),
             ('store.json', lambda f: f.write_text('{'), 'not readable JSON'), ('store.json', lambda f: f.write_text('{"format": 99}'), 'this version can read'),
             ('store.json', lambda f: f.write_text('[]'), 'this version can read'), ('store.json', Path.unlink, 'no such file')]
    for file, change, want in cases:
        with pytest.raises(BadInput, match=want): FeatureStore(store(file, change))
    with pytest.raises(BadInput, match='no such file'): FeatureStore(tmp_path/'nowhere')


def test_a_flipped_byte_is_found(good, tmp_path):
    shutil.copytree(good.path, tmp_path/'s')
    with open(tmp_path/'s'/'features.bin', 'r+b') as f: f.seek(21*8*2+3+20*8*2); f.write(b'\x77')
    assert FeatureStore(tmp_path/'s').verify() == ['22']


# --- processes ---

@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_a_store_crosses_processes(good, method):
    "After it was read from here, in a forked and in a spawned process."
    want = [sum_of(good, i) for i in good.ids]
    with get_context(method).Pool(1) as pool: assert pool.starmap(sum_of, [(good, i) for i in good.ids]) == want
    assert pickle.loads(pickle.dumps(good)).read('25').shape == (25, 8)


def describe(w): return w.song_id, w.start, w.arrays['features'], w.mask, w.rng.random()

@pytest.mark.parametrize('sequences', [False, True])
def test_samples_do_not_depend_on_workers_or_order(good, sequences):
    "0, 1 and 4 workers, any order of songs, several epochs: the same samples."
    cfg = SlidingWindowConfig(window_length_seconds=.12, windows_per_song=3, enable_sequential_windows=sequences)
    ds = WindowDataset(good, cfg, seed=3, item=describe)
    keys = [(epoch, i) for epoch in (0, 1, 7) for i in range(len(ds))]
    items = check_dataset(ds, keys=keys, n_workers=(0, 1, 4))
    ids = good.ids; random.Random(0).shuffle(ids)
    other = WindowDataset(good, cfg, ids=ids, seed=3, item=describe)
    by_song = lambda items: sorted(items, key=lambda x: (x[0], x[-1]))
    check_same(by_song(items), by_song([other[k] for k in keys]), 'other order of songs')
    assert len({str(x[1]) for x in items if x[0] == '31'}) > len(ds)//len(good.ids) - 1 # windows move with the epoch


# --- many songs ---

def test_a_hundred_thousand_songs(tmp_path):
    "Opening takes about a second of work at most, reading opens one file, not one a song."
    n = 100_000
    row = dict(features=np.zeros((3, 4), np.float16))
    build_store(tmp_path/'s', [(f'song {i}', i) for i in range(n)], lambda i: row, rate=100, split=lambda i: 'train', progress=False)
    files = len(os.listdir('/proc/self/fd'))
    t = time.process_time(); store = FeatureStore(tmp_path/'s'); opened = time.process_time()-t
    for i in range(0, n, 100): store.read(f'song {i}')
    assert len(store) == n and opened < 2 and len(os.listdir('/proc/self/fd')) <= files+1
    t = time.process_time(); ds = WindowDataset(store, SlidingWindowConfig(windows_per_song=1)); made = time.process_time()-t
    assert len(ds) == n and made < 3 and ds[0, n-1][1].sum() == 3
