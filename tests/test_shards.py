"What a cell cannot show of shards: kill -9 at every step, damaged files, hostile manifests, processes, odd values."
import json, os, pickle, random, shutil, signal, threading, time
from multiprocessing import get_context
from pathlib import Path
import numpy as np, pyarrow as pa, pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from audioml import shards
from audioml.core import BadInput, derive_rng, file_hash
from audioml.shards import *
from audioml.testing import check_dataset
from builders import damage, ids_in_shards, start_builder, wait_for_group
from shard_rows import ITEMS, make, slow_make, sum_of

def write(path, items=ITEMS, make=make, rows_per_shard=5, **kw): return write_shards(path, items, make, rows_per_shard=rows_per_shard, progress=False, **kw)
def hashes(path): return {f.name: file_hash(f) for f in sorted(Path(path).iterdir()) if f.name != '.lock'}
def same_row(row, n):
    want = make(n)
    return row['length'] == n and np.array_equal(row['codes'], want['codes']) and row['gain'] == want['gain'] and row['audio'] == want['audio']


# --- killed while writing ---

@pytest.fixture(scope='module')
def whole(tmp_path_factory): return write(tmp_path_factory.mktemp('whole')/'s')


@pytest.mark.parametrize('n_workers', [0, 2])
def test_killed_and_resumed(tmp_path, n_workers, trace, whole):
    "Killed at random moments and resumed, a store is byte for byte the one that was never interrupted, and no row of a finished shard is made twice."
    path, rng, before = tmp_path/'killed', random.Random(n_workers), []
    for _ in range(2):
        p = start_builder('shard_rows.py', path, n_workers)
        trace.wait_for(rng.randint(14, 30)); time.sleep(rng.uniform(0, .03))
        os.kill(p.pid, signal.SIGKILL); p.wait() # its workers are left to find out for themselves
        wait_for_group(p.pid)
        assert not set(trace.take()) & set(before)
        assert set(before) <= set(before := ids_in_shards(path)) and len(before) == len(set(before))
        with pytest.raises(BadInput): ShardStore(path)
    assert 5 <= len(before) < len(ITEMS)
    resumed = write(path, make=slow_make, n_workers=n_workers)
    assert sorted(trace.take() + before) == sorted(resumed.ids) and resumed.ids == [i for i, _ in ITEMS]
    assert hashes(path) == hashes(whole.path) and resumed.verify() == []


def dies_at(k, path, items):
    "Write a store in a process that kills itself before the k-th step on the disk; False when it got to the end."
    pid = os.fork()
    if not pid:
        steps = iter(range(k))
        def step(f):
            def g(*args, **kw):
                if next(steps, None) is None: os.kill(os.getpid(), signal.SIGKILL)
                return f(*args, **kw)
            return g
        for name in ('replace', 'fsync', 'unlink', 'chmod'): setattr(os, name, step(getattr(os, name))) # all of `atomic_path` and of `Path.unlink`
        try: write(path, items, rows_per_shard=2)
        finally: os._exit(0)
    return os.waitpid(pid, 0)[1] != 0


@pytest.mark.parametrize('again', [False, True])
def test_killed_before_every_step(tmp_path, again):
    "Before each step that the writer takes on the disk: what is there opens as the old store or the new one or not at all, and the next build makes it whole."
    old, new = [('a', 20), ('b', 30), ('bad', -1), ('c', 40)], [('a', 20), ('b', 31), ('bad', -1), ('c', 40), ('d', 50)]
    want = hashes(write(tmp_path/'new', new, rows_per_shard=2).path)
    k = 0
    while True:
        path = tmp_path/f'{again}{k}'
        if again: write(path, old, rows_per_shard=2)
        died = dies_at(k, path, new)
        try:
            store = ShardStore(path)
            for i, n in dict(store.index[['id', 'length']].values).items(): assert same_row(store.row(i), n) and (i, n) in old+new
        except BadInput as e: assert '\n' not in str(e)
        assert write(path, new, rows_per_shard=2).verify() == [] and hashes(path) == want, f'killed before step {k}'
        if not died: break
        k += 1
    assert k > 20


def test_two_builders(tmp_path, trace, whole):
    "The second one is told; the first goes on."
    p = start_builder('shard_rows.py', tmp_path/'store', 0)
    while not ids_in_shards(tmp_path/'store'): time.sleep(.005)
    with pytest.raises(BadInput, match='being built by another process'): write(tmp_path/'store', make=slow_make)
    assert p.wait() == 0 and hashes(tmp_path/'store') == hashes(whole.path)


def test_an_unexpected_error_loses_nothing(tmp_path):
    "A bug in `make` is raised, and the shards before it are kept."
    def broken(n):
        if n == 33: raise ZeroDivisionError
        return make(n)
    with pytest.raises(ZeroDivisionError): write(tmp_path/'s', make=broken)
    made = []
    def spy(n): made.append(n); return make(n)
    write(tmp_path/'s', make=spy)
    assert made == list(range(30, 140))


# --- who writes does not matter ---

def in_threads(f, jobs, n_workers, done):
    "Jobs from the last to the first, each by two threads at once."
    for i, job in reversed(list(enumerate(jobs))):
        pair = [threading.Thread(target=f, args=(job,)) for _ in range(2)]
        for t in pair: t.start()
        for t in pair: t.join()
        done(i, f(job))
    return []


@pytest.mark.parametrize('kw', [dict(n_workers=1), dict(n_workers=2), dict(n_workers=5), dict(mapper=in_threads)])
def test_bytes_do_not_depend_on_who_writes(tmp_path, kw, whole):
    assert hashes(write(tmp_path/'s', **kw).path) == hashes(whole.path)


def test_items_that_come_and_go(tmp_path):
    "After any edit of the list the store is the one of the new list, and rows that stayed in their shard are not made again."
    made, rng = [], random.Random(0)
    def spy(n): made.append(n); return make(n)
    items = ITEMS[:23]
    write(tmp_path/'s', items, spy)
    for edit in ('append', 'change', 'remove', 'insert'):
        before, made[:] = dict(items), []
        if edit == 'append': items = items + [('new', 200), ('newer', 201)]
        elif edit == 'change': items = [(i, n+300 if i == 'row 31' else n) for i, n in items]
        elif edit == 'remove': items = [(i, n) for i, n in items if i != 'row 20']
        else: items = [('first', 400)] + items
        store = write(tmp_path/'s', items, spy)
        assert store.ids == [i for i, _ in items] and all(same_row(store.row(i), n) for i, n in rng.sample(items, 9))
        assert set(made) == {200, 201} if edit == 'append' else made == [331] if edit == 'change' else len(made) <= 6, (edit, made)
    assert store.verify() == []


def test_a_limit_and_then_all(tmp_path, whole):
    assert write(tmp_path/'s', limit=7).ids == [i for i, _ in ITEMS[:7]]
    assert hashes(write(tmp_path/'s').path) == hashes(whole.path)
    assert len(write(tmp_path/'s', limit=7)) == 7 and len(list((tmp_path/'s').glob('*.parquet'))) == 24 # the others wait
    made = []
    def spy(n): made.append(n); return make(n)
    assert hashes(write(tmp_path/'s', make=spy).path) == hashes(whole.path) and made == [27, 28, 29] # cut off by the limit
    with pytest.raises(BadInput, match='there are no items'): write(tmp_path/'s', limit=0)


# --- bad and changed sources ---

def make_file(path):
    try: return make(int(Path(path).read_text()))
    except (OSError, ValueError) as e: raise e if isinstance(e, BadInput) else BadInput(f'is not a row ({type(e).__name__})', where=path) from None


def test_fifty_files_five_bad(tmp_path):
    "45 are built, the 5 are named with their reason; put right, they are made."
    files = [tmp_path/f'f{i:02}.txt' for i in range(50)]
    for i, f in enumerate(files): f.write_text(str(i+10))
    files[3].write_text('noise'); files[11].write_bytes(b'\xff\xfe\x00'); files[20].unlink(); files[30].write_text(''); files[49].write_text('-5')
    items, made = [(f.stem, f) for f in files], []
    store = write(tmp_path/'s', items, make_file, n_workers=2)
    assert len(store) == 45 and store.skipped['id'].tolist() == ['f03', 'f11', 'f20', 'f30', 'f49']
    assert all('is not a row' in e or 'cannot be -5' in e for e in store.skipped['error'])
    def spy(path): made.append(path.stem); return make_file(path)
    for i in (3, 11, 20, 30, 49): files[i].write_text(str(i+10))
    os.utime(files[0], (1, 1))       # touched, same content: not made again
    files[7].write_text('999')       # changed: made again
    store = write(tmp_path/'s', items, spy)
    assert made == ['f03', 'f07', 'f11', 'f20', 'f30', 'f49'] and len(store) == 50 and len(store.skipped) == 0
    assert store.ids == [f.stem for f in files] and len(store.row('f07')['codes']) == 999 and store.verify() == []
    made.clear(); write(tmp_path/'s', items, spy); assert made == []


def test_a_shard_of_bad_items_is_empty(tmp_path):
    items = [('a', 20), ('b', 21)] + [(f'bad {i}', -1) for i in range(4)] + [('c', 22)]
    for n_workers in (0, 2):
        store = write(tmp_path/f'{n_workers}', items, rows_per_shard=2, n_workers=n_workers)
        assert store.ids == ['a', 'b', 'c'] and len(store.skipped) == 4 and store.index['shard'].tolist() == [0, 0, 3] and same_row(store.row('c'), 22)
    with pytest.raises(BadInput, match='none of 4 items could be used; the first: here: cannot be -1 long'): write(tmp_path/'none', items[2:6], rows_per_shard=2)


def test_rows_that_do_not_fit(tmp_path):
    "Other columns, other types, no length, the store's own names, things that parquet has no type for: skipped and named."
    good = make(20)
    odd = dict(missing={k: v for k, v in good.items() if k != 'codes'}, more=good | dict(x=1), type=good | dict(codes=good['codes'].astype(np.int32)),
               text=good | dict(gain='loud'), none=good | dict(gain=None), list=good | dict(codes=[1, 2]), axes=good | dict(codes=np.zeros((2, 2), np.uint16)),
               objects=good | dict(codes=np.array([None])), no_length={k: v for k, v in good.items() if k != 'length'}, negative=good | dict(length=-1),
               float=good | dict(length=2.), own=good | dict(hash='x'), scalar=good | dict(codes=7), huge=good | dict(length=2**70))
    store = write(tmp_path/'s', [('good', None)] + [(k, k) for k in odd], lambda s: good if s is None else odd[s], rows_per_shard=100)
    assert store.ids == ['good'] and store.skipped['id'].tolist() == list(odd) and not store.skipped['error'].str.contains('\n').any()
    with pytest.raises(BadInput, match='has the columns'): write(tmp_path/'t', [('a', 0), ('b', 1)], lambda i: good | ({'x': 1} if i else {}), rows_per_shard=1)
    with pytest.raises(BadInput, match="'a' is there twice"): write(tmp_path/'u', [('a', 1), ('a', 2)])
    with pytest.raises(BadInput, match='not text'): write(tmp_path/'u', [('a\udcff', 1)])
    with pytest.raises(BadInput, match='rows_per_shard'): write(tmp_path/'u', [('a', 1)], rows_per_shard=0)
    (tmp_path/'file').write_text('')
    with pytest.raises(BadInput, match='cannot be written to'): write(tmp_path/'file', [('a', 1)])


def test_sources_with_odd_names(tmp_path):
    "A file whose name is not text, in the reason why it was skipped."
    odd = os.fsdecode(b'caf\xe9.txt')
    def bad(s): raise BadInput('is no good', where=s) if s == odd else None
    store = write(tmp_path/'s', [('a', 20), ('b', odd)], lambda s: make(s) if s == 20 else bad(s))
    assert store.skipped.values.tolist() == [['b', 'caf\\udce9.txt', 'caf\\udce9.txt: is no good']]


def test_another_config(tmp_path):
    "Rows made otherwise, laid out otherwise or of given types are refused, whoever writes."
    items, schema = ITEMS[:4], pa.schema([('length', pa.int64()), ('codes', pa.list_(pa.uint16())), ('gain', pa.float32()), ('audio', pa.binary())])
    write(tmp_path/'s', items, config=dict(bits=16))
    for kw in (dict(config=dict(bits=24)), dict(), dict(config=dict(bits=16), rows_per_shard=3), dict(config=dict(bits=16), rows_per_group=2)):
        with pytest.raises(BadInput, match='another config'): write(tmp_path/'s', items, **kw)
    with pytest.raises(BadInput, match='another config'): write_shard(tmp_path/'s', shard_parts(items, 5)[0], make, ShardConfig(5))
    (tmp_path/'s'/'manifest.json').unlink()
    with pytest.raises(BadInput, match='another config'): write(tmp_path/'s', items, config=dict(bits=24))
    store = write(tmp_path/'s', items, config=dict(bits=24), overwrite=True, schema=schema)
    assert store.config == dict(bits=24) and store.columns['gain'] == 'float' and store.row('row 20')['gain'] == np.float32(make(20)['gain'])


def test_splits(tmp_path):
    "A function, a table, and other splits later: rows move, nothing is lost."
    store = write(tmp_path/'s', ITEMS[:10], split=lambda i: 'valid' if i < 'row 23' else 'train')
    assert store.split('valid') == ['row 20', 'row 21', 'row 22'] and store.row('row 21')['split'] == 'valid'
    store = write(tmp_path/'s', ITEMS[:10], split={'row 29': 'test'})
    assert store.split('test') == ['row 29'] and len(store.split('train')) == 9 and store.row('row 21')['split'] == 'train'


# --- damaged files ---

@pytest.fixture(scope='module')
def good(tmp_path_factory): return write(tmp_path_factory.mktemp('good')/'s', ITEMS[:12])

@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(['shard-00001.parquet', 'shard-00001.json', 'manifest.json']), st.floats(0, 1), st.sampled_from(['cut', 'flip', 'zeros', 'insert']))
def test_damage_is_told_or_repaired(good, tmp_path_factory, file, at, what):
    "A damaged file gives one clear line or the right row, never a wrong row or another exception; the next build makes it whole or `verify` names it."
    path = tmp_path_factory.mktemp('d')/'s'
    shutil.copytree(good.path, path); damage(path/file, at, what)
    def look():
        store = ShardStore(path)
        for i, n in ITEMS[:12]:
            try: assert same_row(store.row(i), n)
            except BadInput as e: assert 'shard-00001.parquet' in str(e) and '\n' not in str(e)
            try: store.audio(i, 5, 3)
            except BadInput as e: assert '\n' not in str(e)
    try: look()
    except BadInput as e: assert '\n' not in str(e)
    again = write(path, ITEMS[:12])
    assert again.ids == good.ids and again.verify() in ([], [file])
    look()
    if again.verify():
        (path/file).unlink(); write(path, ITEMS[:12])
    assert hashes(path) == hashes(good.path)
    shutil.rmtree(path)


json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5), lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3), max_leaves=5)

def places_in(d, at=()):
    "Paths to all parts of nested lists and dicts."
    yield at
    for k, v in (d.items() if isinstance(d, dict) else enumerate(d) if isinstance(d, list) else ()): yield from places_in(v, (*at, k))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_hostile_manifests(good, tmp_path_factory, data):
    "Any part replaced by anything, and sealed again: one line, or a store whose rows are read or refused."
    path = tmp_path_factory.mktemp('h')/'s'; shutil.copytree(good.path, path)
    m = json.loads((path/'manifest.json').read_text())
    at = data.draw(st.sampled_from([p for p in places_in(m) if p])); part = m
    for k in at[:-1]: part = part[k]
    part[at[-1]] = data.draw(json_values)
    m['seal'] = shards._seal({k: v for k, v in m.items() if k != 'seal'}) if data.draw(st.booleans()) or at != ('seal',) else m['seal']
    (path/'manifest.json').write_text(json.dumps(m))
    try:
        store = ShardStore(path); repr(store); store.skipped, store.verify()
        for i in store.ids:
            for read in (store.row, store.blob, store.audio):
                try: read(i)
                except BadInput as e: assert '\n' not in str(e)
    except BadInput as e: assert '\n' not in str(e)
    shutil.rmtree(path)


def test_what_the_lines_say(good, tmp_path):
    def store(file, change):
        path = tmp_path/f'{file}{random.random()}'; shutil.copytree(good.path, path)
        change(path/file); return path
    head = lambda **kw: lambda f: f.write_text(json.dumps(kw))
    cases = [('shard-00001.parquet', lambda f: os.truncate(f, 100), 'shard-00001.parquet: is 100 bytes long, the manifest speaks of'),
             ('shard-00002.parquet', Path.unlink, 'shard-00002.parquet: no such file'), ('manifest.json', Path.unlink, 'no such file'),
             ('manifest.json', lambda f: f.write_text('{'), 'not readable JSON'), ('manifest.json', lambda f: f.write_text('[]'), 'this version can read'),
             ('manifest.json', head(format=99), 'this version can read'), ('manifest.json', head(format=SHARD_FORMAT), 'is damaged')]
    for file, change, want in cases:
        with pytest.raises(BadInput, match=want): ShardStore(store(file, change))
    with pytest.raises(BadInput, match='no such file'): ShardStore(tmp_path/'nowhere')
    swapped = store('shard-00000.parquet', lambda f: None) # two shards change places: sizes differ, or the job inside does
    a, b = swapped/'shard-00000.parquet', swapped/'shard-00001.parquet'
    a.rename(swapped/'x'); b.rename(a); (swapped/'x').rename(b)
    with pytest.raises(BadInput, match='manifest speaks of'): ShardStore(swapped).row('row 20')
    twice = json.loads((good.path/'manifest.json').read_text()); twice['shards'][1]['id'][0] = 'row 20'
    twice['seal'] = shards._seal({k: v for k, v in twice.items() if k != 'seal'})
    path = store('manifest.json', lambda f: f.write_text(json.dumps(twice)))
    with pytest.raises(BadInput, match="'row 20' is there twice"): ShardStore(path)


# --- values ---

arrays = st.sampled_from('bool uint8 int8 uint16 int16 int32 uint32 int64 uint64 float16 float32 float64 >u2 >f4'.split()).flatmap(
    lambda t: st.integers(0, 40).map(lambda n: (derive_rng(t, n).normal(size=n)*50).astype(t) if t[-1] not in 'bu' or t == 'bool' else derive_rng(t, n).integers(0, 200, n).astype(t)))
values = st.integers(-2**63, 2**63-1) | st.floats() | st.booleans() | st.text(st.characters(codec='utf-8'), max_size=20) | st.binary(max_size=300) | arrays


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from('abcde'), values, max_size=4), st.integers(1, 4), st.integers(1, 3))
def test_what_goes_in_comes_out(tmp_path_factory, row, rows_per_shard, rows_per_group):
    "Values of every type, in any layout, with their types; a column of bytes also as a part of the file."
    path = tmp_path_factory.mktemp('v')/'s'
    row = {k: v.astype(v.dtype.newbyteorder('=')) if isinstance(v, np.ndarray) and not (k in 'ab') else v for k, v in row.items()}
    store = write(path, [(f'{i}', i) for i in range(5)], lambda i: row | dict(length=i), rows_per_shard, rows_per_group=rows_per_group)
    for i in range(5):
        got = store.row(f'{i}')
        assert got['length'] == i and set(got) == {*row, 'id', 'hash', 'split', 'length'}
        for k, v in row.items():
            if isinstance(v, np.ndarray): assert got[k].dtype == v.dtype.newbyteorder('=') and np.array_equal(got[k], v, equal_nan=v.dtype.kind == 'f') and got[k].flags.writeable
            else: assert type(got[k]) == type(v) and (got[k] == v or v != v)
            if isinstance(v, bytes): assert bytes(store.blob(f'{i}', k)) == v
    shutil.rmtree(path)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 8), st.integers(1, 20_000), st.sampled_from([16, 24]), st.sampled_from([8000, 44_100, 48_000, 192_000]), st.floats(0, 1), st.floats(0, 1), st.floats(0, 4))
def test_a_slice_is_the_part_of_the_whole(channels, n, bits, rate, a, b, level):
    "Any channels, length, depth, rate and level: a slice is the rounded and clipped samples of that place."
    x = derive_rng(channels, n).normal(size=(channels, n))*level
    data = audio_bytes(x, rate, bits)
    start = int(a*n); size = int(b*(n-start))
    full = 2**(bits-1)
    want = np.clip(np.rint(x*full), -full, full-1)/full
    assert np.array_equal(read_audio_bytes(data, start, size), want[:, start:start+size].astype(np.float32))
    assert np.array_equal(read_audio_bytes(np.frombuffer(data, np.uint8), start), want[:, start:].astype(np.float32))
    for bad in ((-1, 1), (start, n-start+1), (n+1, 0), (0, -1)):
        with pytest.raises(BadInput, match=f'of {n}'): read_audio_bytes(data, *bad)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.sampled_from(['cut', 'flip', 'zeros', 'insert']))
def test_damaged_audio(tmp_path_factory, at, what):
    "Sound of the right shape or one line."
    path = tmp_path_factory.mktemp('a')/'x.flac'
    path.write_bytes(audio_bytes(derive_rng(0).normal(size=(2, 20_000))*.1, 48_000)); damage(path, at, what)
    for data in (path, path.read_bytes()):
        for place in ((), (9000, 500)):
            try: assert read_audio_bytes(data, *place).shape == (2, 500) or not place
            except BadInput as e: assert '\n' not in str(e)


def test_audio_in_files(tmp_path):
    "A column of paths is read in the same way; a file that is gone is told."
    f = tmp_path/'x.flac'; f.write_bytes(make(50)['audio'])
    store = write(tmp_path/'s', [('a', 1)], lambda i: dict(length=500, audio=str(f)))
    assert np.array_equal(store.audio('a', 100, 50), read_audio_bytes(make(50)['audio'], 100, 50))
    f.unlink()
    with pytest.raises(BadInput, match='x.flac'): store.audio('a', 100, 50)


# --- reading little ---

def test_a_slice_reads_a_part_of_the_row(tmp_path, monkeypatch):
    "A hundredth of the sound takes a few hundredths of its bytes."
    n = 4_000_000
    store = write(tmp_path/'s', [('a', 0)], lambda i: dict(length=n, audio=audio_bytes(derive_rng(0).normal(size=n)*.1, 48_000, 16)))
    read, plain = [], shards._View.readinto
    def spy(self, out): read.append(plain(self, out)); return read[-1]
    monkeypatch.setattr(shards._View, 'readinto', spy)
    assert store.audio('a', n//2, n//100).shape == (1, n//100)
    assert sum(read) < .05*len(store.blob('a'))


def test_few_files_stay_open(whole):
    store = ShardStore(whole.path, max_open=3)
    for i in derive_rng(0).permutation(len(store)): store.row(store.ids[i], ['codes'])
    links = [os.readlink(f) for f in Path('/proc/self/fd').iterdir() if f.is_symlink()]
    assert Path('/proc/self/maps').read_text().count(str(whole.path)) <= 3 and sum(str(whole.path) in f for f in links) <= 3 == len(store._open)


def test_many_rows_open_quickly(tmp_path):
    "Thirty thousand rows in a second of work at most."
    row, n = dict(length=3), 30_000
    write(tmp_path/'s', [(f'row {i}', i) for i in range(n)], lambda i: row, rows_per_shard=3000, rows_per_group=500, split=lambda i: 'train')
    t = time.process_time(); store = ShardStore(tmp_path/'s'); opened = time.process_time()-t
    assert len(store) == n and opened < 1 and store.row('row 29999')['length'] == 3


# --- processes ---

@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_a_store_crosses_processes(good, method):
    "After it was read from here, in a forked and in a spawned process."
    want = [sum_of(good, i) for i in good.ids]
    with get_context(method).Pool(1) as pool: assert pool.starmap(sum_of, [(good, i) for i in good.ids]) == want
    assert same_row(pickle.loads(pickle.dumps(good)).row('row 25'), 25)


class Slices:
    "Random slices, for a loader."
    def __init__(self, store): self.store, self.ids = store, store.ids
    def __len__(self): return len(self.ids)
    def __getitem__(self, key):
        epoch, i = key if isinstance(key, tuple) else (0, key)
        start = derive_rng(epoch, self.ids[i]).integers(100)
        return self.store.audio(self.ids[i], int(start), 80), self.store.row(self.ids[i], ['codes'])['codes'][:5]


def test_slices_do_not_depend_on_workers(whole):
    ds = Slices(whole)
    check_dataset(ds, keys=[(epoch, int(i)) for epoch in (0, 5) for i in shuffled_by_shard(whole.index, 0, epoch)[:20]], n_workers=(0, 1, 2))


# --- order ---

@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=120), st.integers(0, 5), st.integers(0, 5), st.integers(1, 6))
def test_an_order_has_every_row_once_and_few_shards_at_a_time(shard, seed, epoch, buffer):
    shard = np.array(shard, dtype=int); order = shuffled_by_shard(shard, seed, epoch, buffer)
    assert np.array_equal(np.sort(order), np.arange(len(shard))) and np.array_equal(order, shuffled_by_shard(shard, seed, epoch, buffer))
    opened, times = {}, {k: 0 for k in shard}
    for k in shard[order]: # as a reader that keeps `buffer` shards open
        if k in opened: opened[k] = opened.pop(k)
        else:
            times[k] += 1; opened[k] = True
            if len(opened) > buffer: opened.pop(next(iter(opened)))
    assert all(t == 1 for t in times.values()) # none is opened twice
