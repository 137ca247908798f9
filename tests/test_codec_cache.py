"What a cell cannot show of the cache: kill -9, Ray, recordings of all kinds, every start of a slice."
import os, random, time
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch as mocked
import numpy as np, pytest, soundfile as sf, torch
import torch.nn.functional as F
from audioml.audio import AudioClip, load_audio, resample
from audioml.cluster import cluster
from audioml.codec import cache as module
from audioml.codec.cache import *
from audioml.codec.model import *
from audioml.core import BadInput, derive_rng, file_hash
from audioml.shards import ShardStore, read_audio_bytes, write_shards
from builders import ids_in_shards, wait_for_group

TINY = CODEC_PRESETS['small'].replace(encoder_dim=2, decoder_dim=32, codebook_size=64)  # as the real one, but for its widths
N_SOUNDS = 18

def make_codec(seed=0):
    with torch.random.fork_rng(): torch.manual_seed(seed); return Codec(TINY).eval()

@pytest.fixture(scope='module')
def codec(): return make_codec()

@pytest.fixture(scope='module')
def home(tmp_path_factory, codec):
    "A codec and some recordings, of 10 ms to a second."
    home = tmp_path_factory.mktemp('home')
    save_codec(home/'codec', codec, '# A codec with random weights')
    for i in range(N_SOUNDS):
        rng = derive_rng('sound', i)
        (home/'sounds').mkdir(exist_ok=True)
        sf.write(home/'sounds'/f'{i:02}.wav', .2*rng.standard_normal((480 if i == 3 else int(rng.integers(9000, 48000)), 1 + i%2)), 48000)
    return home

def build(home, path, **options):
    return build_cache(path, audio_sources(home/'sounds'), home/'codec', **dict(rows_per_shard=3, progress=False) | options)

@pytest.fixture(scope='module')
def whole(home): return build(home, home/'whole')

def files_of(path): return {f.name: file_hash(f) for f in sorted(Path(path).iterdir()) if f.name == 'manifest.json' or f.suffix == '.parquet'}


# --- killed while building ---

def build_slowly(home, path, trace, n_workers):
    "Build in a process group of its own, slowly enough to be killed, leaving a trace of every row."
    os.setsid()
    def slow_row(codec, cfg, source):
        row = cache_row(codec, cfg, source); trace.leave(Path(source).stem, .01)
        return row
    with mocked.object(module, 'cache_row', slow_row): build(home, path, n_workers=n_workers)

@pytest.fixture(scope='module')
def server():
    context = get_context('forkserver')
    context.set_forkserver_preload(['audioml.codec.cache'])
    return context

@pytest.mark.parametrize('n_workers', [0, 2])
def test_killed_and_resumed(server, home, whole, trace, tmp_path, n_workers):
    "Killed at random moments and resumed, a cache is byte for byte the one that was never interrupted; no row of a finished shard is made twice."
    path, rng, killed = tmp_path/'cache', random.Random(n_workers), 0
    for _ in range(4):
        before = ids_in_shards(path)
        p = server.Process(target=build_slowly, args=(home, path, trace, n_workers)); p.start()
        trace.wait_for(1, p.is_alive)
        time.sleep(rng.uniform(0, .12))
        killed += p.is_alive(); p.kill(); p.join()
        wait_for_group(p.pid)
        assert not set(trace.take()) & set(before)
        if ids_in_shards(path) != whole.ids:
            with pytest.raises(BadInput): ShardStore(path)
    assert killed # a fast machine may be done before
    before = ids_in_shards(path)
    resumed = build(home, path, n_workers=n_workers)
    assert resumed.ids == whole.ids and files_of(path) == files_of(whole.path) and resumed.verify() == []
    stamps = {f: f.stat().st_mtime_ns for f in path.glob('*.parquet')}
    assert build(home, path).ids == whole.ids and {f: f.stat().st_mtime_ns for f in path.glob('*.parquet')} == stamps


# --- many processes and hosts ---

def test_processes_write_what_one_writes(home, whole, tmp_path):
    assert files_of(build(home, tmp_path/'two', n_workers=2).path) == files_of(whole.path)

@pytest.fixture
def ray():
    ray = pytest.importorskip('ray')
    with cluster(2): yield ray
    assert not ray.is_initialized()

@pytest.mark.alone
def test_two_ray_workers_write_what_one_process_writes(ray, home, whole, tmp_path):
    build(home, tmp_path/'ray', limit=3) # a shard that is there already
    store = build(home, tmp_path/'ray', hosts='ray', n_workers=2)
    assert files_of(store.path) == files_of(whole.path) and store.ids == whole.ids
    bad = [('no', home/'codec'/'config.json')]
    with pytest.raises(BadInput, match='none of 1 items'): build_cache(tmp_path/'bad', bad, home/'codec', hosts='ray', n_workers=2, progress=False)

def test_another_codec_or_config(home, tmp_path):
    build(home, tmp_path/'c', limit=3)
    save_codec(tmp_path/'other', make_codec(1), '# Another')
    for options in (dict(cfg=CacheConfig(bits=16)), dict(cfg=CacheConfig(max_seconds=None))):
        with pytest.raises(BadInput, match='another config'): build(home, tmp_path/'c', limit=3, **options)
    with pytest.raises(BadInput, match='another config'): build_cache(tmp_path/'c', audio_sources(home/'sounds')[:3], tmp_path/'other', rows_per_shard=3, progress=False)
    with pytest.raises(BadInput, match='has the fingerprint'): build_cache(tmp_path/'d', audio_sources(home/'sounds'), tmp_path/'other', CacheConfig(codec=codec_fingerprint(make_codec())))
    with pytest.raises(BadInput): build_cache(tmp_path/'d', audio_sources(home/'sounds'), tmp_path/'nowhere')

@pytest.mark.parametrize('n_gpus, worker, device', [(0, 1, 'cpu'), (1, 5, 'cuda:0'), (3, None, 'cuda:0'), (3, 1, 'cuda:0'), (3, 3, 'cuda:2'), (3, 4, 'cuda:0')])
def test_workers_take_the_gpus_in_turns(monkeypatch, n_gpus, worker, device):
    class Me: _identity = () if worker is None else (worker,)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: n_gpus); monkeypatch.setattr(module.multiprocessing, 'current_process', Me)
    assert module._device() == device


# --- recordings of all kinds ---

RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 192000)

@pytest.mark.parametrize('rate', RATES)
@pytest.mark.parametrize('channels', [1, 2, 6])
def test_any_rate_and_channels(codec, tmp_path, rate, channels):
    "The target is the mono mix at 48 kHz; codes are as long as it; pieces have the samples and codes of the whole."
    path, cfg = tmp_path/'a.flac', CacheConfig(max_seconds=.3)
    sf.write(path, .1*derive_rng(rate, channels).standard_normal((round(rate*.8), channels)), rate)
    row, want = cache_row(codec, cfg, path), load_audio(path, 48000).samples[0].numpy()
    assert (row['length'], row['steps'], row['rate']) == (38400, 10, rate) and [len(row[f'codes_{i}']) for i in range(3)] == [10, 20, 40]
    assert np.abs(read_audio_bytes(row['audio'])[0] - np.pad(want, (0, 40960-38400))).max() < 2e-7
    parts = [cache_row(codec, cfg, s) for _, s in cut_sources([('a', path)], codec.cfg, cfg)]
    assert [p['steps'] for p in parts] == [3, 3, 3, 1] and sum(p['length'] for p in parts) == 38400
    assert np.abs(np.concatenate([read_audio_bytes(p['audio'])[0] for p in parts]) - read_audio_bytes(row['audio'])[0]).max() < 1e-6
    for i in range(3): assert np.mean(np.concatenate([p[f'codes_{i}'] for p in parts]) == row[f'codes_{i}']) > .97  # the last digit of a sample may decide on a code

@pytest.mark.parametrize('n, steps', [(1, 1), (480, 1), (4096, 1), (4097, 2), (48000, 12)])
def test_short_and_silent(codec, tmp_path, n, steps):
    for x in (np.zeros(n), .5*np.ones(n), derive_rng(n).uniform(-1, 1, n)):
        sf.write(tmp_path/'a.wav', x, 48000, subtype='FLOAT')
        row = cache_row(codec, CacheConfig(), tmp_path/'a.wav')
        assert (row['length'], row['steps'], len(row['codes_2'])) == (n, steps, 4*steps)
        assert row['codes_0'].max() < 64 and np.abs(read_audio_bytes(row['audio'])[0, :n] - x).max() < 1e-6

def test_bad_files_among_good_ones(home, tmp_path):
    "They are skipped and named with their reason; put right, they are made."
    folder = tmp_path/'sounds'; folder.mkdir()
    for i in range(9): sf.write(folder/f'{i}.wav', .1*derive_rng(i).standard_normal(9000), 48000, subtype='FLOAT')
    (folder/'1.wav').write_text('not audio'); (folder/'2.wav').write_bytes(b''); sf.write(folder/'3.wav', np.zeros(0), 48000)
    sf.write(folder/'4.wav', np.full(900, np.nan), 48000, subtype='FLOAT'); os.truncate(folder/'5.wav', 20_000)
    sf.write(folder/'6.wav', np.zeros(400), 8000); (folder/'7.wav').write_bytes(b'RIFF' + bytes(60))
    sources, cfg = audio_sources(folder), CacheConfig(min_rate=16000, max_seconds=.1)
    store = build_cache(tmp_path/'cache', sources, home/'codec', cfg, n_workers=2, rows_per_shard=2, progress=False)
    assert store.ids == ['0@0', '0@1', '0@2', '8@0', '8@1', '8@2'] and store.skipped.id.tolist() == list('1234567')
    reasons = ['not audio', 'empty file', 'no samples', 'NaN', 'truncated', 'a rate of 8000 Hz', '']
    assert all(r in e and '\n' not in e for r, e in zip(reasons, store.skipped.error)), store.skipped.error.tolist()
    for i in range(1, 8): sf.write(folder/f'{i}.wav', .1*derive_rng(i).standard_normal(900), 48000)
    store = build_cache(tmp_path/'cache', audio_sources(folder), home/'codec', cfg, rows_per_shard=2, progress=False)
    assert len(store) == 6 + 7 and not len(store.skipped) and store.verify() == []

def test_a_long_recording_takes_no_more_memory(codec, tmp_path):
    "Half an hour in thirty rows: a row in the middle needs what the first one needed, and that is little."
    import resource
    def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024 # MB
    with sf.SoundFile(tmp_path/'long.wav', 'w', 16000, 2) as f:
        for i in range(30): f.write(np.tile(.1*derive_rng(i).standard_normal((1600, 2)), (600, 1)))
    pieces, before = cut_sources([('a', tmp_path/'long.wav')], codec.cfg), peak()
    assert [name for name, _ in pieces] == [f'a@{i}' for i in range(31)] and sum(p.n for _, p in pieces) == 30*60*48000
    def encode(*which): assert [cache_row(codec, CacheConfig(), pieces[i][1])['length'] for i in which] == [681*4096]*len(which)
    encode(1, 2, 3); first = peak()
    encode(15, 22, 28)
    assert first - before < 300 and peak() - first < 60 # the recording has 345 MB at 48 kHz

def test_real_recordings(home, codec, data_dir, tmp_path):
    "Speech, noise and stereo music: every sample is in a row, slices come from all over, and rows of a recording share a split."
    sources, cfg = audio_sources(data_dir/'audio48'), CacheConfig(max_seconds=6.)
    store = build_cache(tmp_path/'cache', sources, home/'codec', cfg, n_workers=2, rows_per_shard=4, progress=False)
    assert len(sources) == 3 and not len(store.skipped)
    for name, path in sources:
        x = load_audio(path, 48000).samples[0].numpy()
        rows = [i for i in store.ids if recording_of(i) == name]
        joined = np.concatenate([store.audio(i)[0] for i in rows])[:len(x)]
        gain = min(store.row(i, ['gain'])['gain'] for i in rows)
        assert np.abs(joined - x*gain).max() < 1e-6 if gain == 1 else np.corrcoef(joined, x)[0, 1] > .99
        assert store.index[store.index.id.isin(rows)].split.nunique() == 1
    ds = CodeSlices(store, lambda epoch: 1. + epoch, ids=store.ids)
    for epoch in range(3):
        for i in range(len(ds)):
            (codes, left, right), target, mask = ds[epoch, i]
            assert target.shape[1] == mask.numel() == ds.n_steps(epoch)*4096 and torch.isfinite(target).all() and not target[0, ~mask].any()
    assert ds.n_steps(0) == 11 and ds.n_steps(1) == 23


# --- slices ---

class Ruler:
    "A codec whose codes are the mean of each step, then the mean of what is left in each half step, and so on: they say where they stand."
    def __init__(self, **changes):
        self.cfg, self.net = CodecConfig(**dict(encoder_rates=(2, 4), decoder_rates=(4, 2), codebook_size=65536) | changes), torch.nn.Module()
        self.net.encoder = torch.nn.Identity()
    def parameters(self): return iter([torch.zeros(1)])
    def value(self, codes): return codes/65535*4 - 2
    def encode(self, x):
        codes, rest = [], F.pad(x[:, 0], (0, -x.shape[-1] % self.cfg.step))
        for r in self.cfg.per_step:
            codes.append(((rest.unflatten(1, (-1, self.cfg.step//r)).mean(2).clamp(-2, 2) + 2)/4*65535).round().long())
            rest = rest - self.value(codes[-1]).repeat_interleave(self.cfg.step//r, 1)
        return codes
    def decode(self, codes):
        return resample(sum(self.value(c).repeat_interleave(self.cfg.step//r, 1) for c, r in zip(codes, self.cfg.per_step))[:, None], 24000, 48000)

def lag_of(decoded, target, reach=200):
    "Where the correlation of two signals (n,) peaks, samples."
    a, b = (x.double().numpy() - x.double().mean().item() for x in (decoded, target))
    size = 2*len(a)
    c = np.fft.irfft(np.fft.rfft(a, size)*np.fft.rfft(b, size).conj(), size)
    c = np.concatenate([c[-reach:], c[:reach+1]])
    return int(c.argmax()) - reach

@pytest.fixture(scope='module')
def ruled(tmp_path_factory):
    "A ruler, and slices of a cache that it has made of noise that its steps can follow."
    folder, ruler = tmp_path_factory.mktemp('ruled'), Ruler()
    waves = np.convolve(derive_rng('waves').standard_normal(20_000), np.hanning(64), 'same')
    AudioClip((.2*waves/waves.std()).astype(np.float32), 48000).save(folder/'waves.wav', 'FLOAT')
    config = dict(cache=CacheConfig().to_dict(), codec=ruler.cfg.to_dict())
    store = write_shards(folder/'cache', [('waves', folder/'waves.wav')], partial(cache_row, ruler, CacheConfig()), config=config, progress=False)
    return ruler, CodeSlices(store, ids=['waves'], context=2)

def lags(ruler, slices, starts, n, size=None):
    batch = collate_slices([slices.cut('waves', s, n) for s in starts])
    decoded = decode_slices(ruler.decode, *batch[0], n)
    size = size or n*slices.step
    return [lag_of(d[0, :size], t[0, :size]) for d, t in zip(decoded, batch[1])]

@pytest.mark.parametrize('n', [20, 47, 100, 200])
def test_every_start_and_length_is_aligned(ruled, n):
    "The correlation of decode and target peaks at lag 0 for every start of every length."
    ruler, slices = ruled
    starts = range(-(-20_000//slices.step) - n + 1)
    assert lags(ruler, slices, starts, n) == [0]*len(starts)

@pytest.mark.parametrize('wrong', [-2, 1, 4])
def test_a_wrong_stride_is_caught(ruled, wrong):
    "With steps that are too long or short, the peak moves by so much for each step before the slice."
    ruler, slices = ruled
    n, starts = 100, (10, 25, 40)
    stride = slices.slices.replace(ratios=slices.slices.ratios | dict(audio=slices.step + wrong))
    with mocked.object(slices, 'slices', stride): targets = [slices.cut('waves', s, n)[1][0] for s in starts]
    batch = collate_slices([slices.cut('waves', s, n) for s in starts])
    size = 60*slices.step
    got = [lag_of(d[0, :size], t[:size]) for d, t in zip(decode_slices(ruler.decode, *batch[0], n), targets)]
    assert got == [wrong*s for s in starts]

def test_levels_in_a_wrong_order_are_caught(ruled):
    "Codes of a level taken with the stride of another no longer fit the sound."
    ruler, slices = ruled
    (codes, left, right), target, _ = slices.cut('waves', 60, 60)
    whole = slices.store.row('waves')
    wrong = (codes[0], codes[1], torch.from_numpy(whole['codes_2'][58*2:58*2+64*4].astype(np.int64)))  # a stride of 2 where it is 4
    fit = lambda codes: F.cosine_similarity(decode_slices(ruler.decode, *collate_slices([((codes, left, right), target, torch.ones(60*64, dtype=bool))])[0], 60)[0], target).item()
    assert fit(codes) > .95 and fit(wrong) < .9

def test_slices_are_those_of_the_whole(codec, whole):
    "Codes and targets of every slice, and its decode, are the same part of the whole recording's; what sticks out is silent and masked."
    ds, context = CodeSlices(whole, ids=whole.ids, context=context_steps(codec)), context_steps(codec)
    for name in whole.ids[:6]:
        row, sound = whole.row(name), whole.audio(name)[0]
        full = F.pad(codec.decode([torch.from_numpy(row[f'codes_{i}'].astype(np.int64))[None] for i in range(3)]), (0, 30*2048))
        for n in (1, 3, 8):
            items = [ds.cut(name, s, n) for s in range(row['steps'])]
            batch = collate_slices(items)
            decoded = decode_slices(codec.decode, *batch[0], n)
            for s, ((codes, left, right), target, mask) in enumerate(items):
                for i, r in enumerate((1, 2, 4)): assert codes[i].tolist() == row[f'codes_{i}'][(s-left)*r:(s+n+right)*r].tolist()
                part = np.pad(sound, (0, n*4096))[s*4096:(s+n)*4096]
                assert np.array_equal(target[0].numpy(), part) and mask.sum() == min(n*4096, row['length']-s*4096)
                assert torch.allclose(decoded[s], full[0, :, s*2048:(s+n)*2048], atol=1e-5)

def test_short_rows_do_not_disturb_their_batch(codec, whole):
    "A recording of 10 ms in a batch with long ones: all decode as they do alone."
    ds = CodeSlices(whole, ids=whole.ids, context=context_steps(codec))
    items = [ds.cut(name, 0, 3) for name in whole.ids[:6]]
    together = decode_slices(codec.decode, *collate_slices(items)[0], 3)
    for item, x in zip(items, together): assert torch.allclose(decode_slices(codec.decode, *collate_slices([item])[0], 3)[0], x, atol=1e-5)
    assert collate_slices(items)[2].sum(1).min() == 480

def test_gradients_flow_through_the_cut(codec, whole):
    ds = CodeSlices(whole, ids=whole.ids, context=1)
    (x, target, mask), model = collate_slices([ds.cut(name, 0, 2) for name in whole.ids[:5]]), make_codec()
    decode_slices(model.decode, *x, 2)[..., :2*2048].abs().sum().backward()
    assert model.net.decoder.model[0].parametrizations.weight.original1.grad.abs().sum() > 0

def test_slices_cover_long_recordings(home, tmp_path):
    "One slice for every four seconds; training moves them, validation spreads them evenly and keeps them."
    sf.write(tmp_path/'long.wav', .1*derive_rng('long').standard_normal(48000*40), 48000)
    store = build_cache(tmp_path/'cache', [('long', tmp_path/'long.wav')], home/'codec', split=lambda i: 'valid', progress=False)
    train, valid = CodeSlices(store, ids=['long']), CodeSlices(store, mode='valid')
    assert len(train) == len(valid) == 10
    def starts(ds, epoch):
        with mocked.object(CodeSlices, 'cut', lambda self, name, start, n: start): return [ds[epoch, i] for i in range(len(ds))]
    assert starts(valid, 0) == starts(valid, 7) == sorted(set(starts(valid, 0))) and np.ptp(starts(valid, 0)) > 300
    drawn = [s for epoch in range(40) for s in starts(train, epoch)]
    assert min(drawn) < 30 and max(drawn) > 469 - 11 - 30 and len(set(drawn)) > 200 and max(drawn) <= 469 - 11
    assert starts(train, 3) == starts(CodeSlices(store, ids=['long']), 3) != starts(CodeSlices(store, ids=['long'], seed=1), 3)

def test_what_is_not_a_cache(tmp_path, whole):
    store = write_shards(tmp_path/'s', [('a', 1)], lambda s: dict(length=s), progress=False)
    with pytest.raises(BadInput, match='is not a cache of codes'): CodeSlices(store)
    with pytest.raises(BadInput, match='has no rows to'): CodeSlices(whole, ids=[])
    with pytest.raises(BadInput, match='no row'): CodeSlices(whole, ids=['nobody'])
    ds = CodeSlices(whole, ids=whole.ids)
    with pytest.raises(BadInput, match='steps 99 to 100 of'): ds.cut(whole.ids[0], 99, 1)
    with pytest.raises(IndexError): ds[len(ds)]
    with pytest.raises(BadInput, match='one length in a batch'): collate_slices([ds.cut(whole.ids[0], 0, 1), ds.cut(whole.ids[0], 0, 2)])
