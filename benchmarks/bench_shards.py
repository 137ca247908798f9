"""Reading random slices from shards: by row groups, against reading the whole shard for each item. Prints one line of JSON.

Rows of 8 s of 48 kHz sound as 24-bit FLAC with three levels of codes, in shards of 64. An item is a random second of a row and
the codes of that second. `slices` maps the shards, keeps them open, and decodes only the second; `rows` reads the whole row, and
decodes only the second; `whole` reads the shard's file for each item, as a plain `read_table` does, and then decodes the second
in the same way. All three are asked for the same rows and places, first in any order, then in an order that keeps locality, with
two shards open at a time. They take turns, and the best of several rounds counts, so that neighbours on the machine do not.
"""
import json, sys, tempfile, time
from pathlib import Path
import numpy as np, pyarrow.parquet as pq
from audioml.core import derive_rng
from audioml.shards import ShardStore, audio_bytes, read_audio_bytes, shuffled_by_shard, write_shards

RATE, STEP, STEPS, ROWS, PER_SHARD, SLICE_STEPS, READS, ROUNDS = 48_000, 4096, 94, 256, 64, 11, 120, 3
LEVELS = {'codes_0': 1, 'codes_1': 2, 'codes_2': 4}


def make(seed):
    rng = np.random.default_rng(seed)
    x = np.cumsum(rng.normal(size=STEPS*STEP)) # brown noise: FLAC takes about what it takes for music
    return dict(length=len(x), audio=audio_bytes(.5*x/np.abs(x).max(), RATE), **{k: rng.integers(0, 4096, STEPS*r).astype(np.uint16) for k, r in LEVELS.items()})


def cut(row, audio, start): return audio, *(row[k][start*r:(start+SLICE_STEPS)*r] for k, r in LEVELS.items())

def from_slices(store, i, start):
    return cut(store.row(i, list(LEVELS)), store.audio(i, start*STEP, SLICE_STEPS*STEP), start)

def from_rows(store, i, start):
    row = store.row(i)
    return cut(row, read_audio_bytes(row['audio'], start*STEP, SLICE_STEPS*STEP), start)

def from_whole_shards(store, i, start):
    shard, at = store.index.loc[store.index['id'] == i, ['shard', 'row']].values[0]
    table = pq.read_table(store.path/f'shard-{shard:05d}.parquet', columns=['audio', *LEVELS])
    row = {k: np.asarray(table[k][int(at)].as_py(), np.uint16) for k in LEVELS}
    return cut(row, read_audio_bytes(table['audio'][int(at)].as_py(), start*STEP, SLICE_STEPS*STEP), start)


def seconds(read, store, items):
    t = time.perf_counter()
    for i, start in items: read(store, i, start)
    return time.perf_counter()-t


def main():
    rng = derive_rng('bench')
    with tempfile.TemporaryDirectory() as tmp:
        path = write_shards(Path(tmp)/'store', [(f'{i}', i) for i in range(ROWS)], make, rows_per_shard=PER_SHARD, progress=False).path
        store = ShardStore(path)
        orders = dict(random=rng.permutation(ROWS), by_shard=shuffled_by_shard(store.index, 0, 0, buffer=2))
        plans = {k: [(store.ids[i], int(s)) for i, s in zip(order[:READS], rng.integers(0, STEPS-SLICE_STEPS+1, READS))] for k, order in orders.items()}
        i, start = plans['random'][0]
        for read in (from_rows, from_whole_shards):
            for a, b in zip(read(store, i, start), from_slices(store, i, start)): assert np.array_equal(a, b)
        result = dict(name='shards', rows=ROWS, row_s=round(STEPS*STEP/RATE, 1), shard_mb=round(next(path.glob('*.parquet')).stat().st_size/1e6), target=5)
        for order, plan in plans.items():
            times = {f: [] for f in (from_slices, from_rows, from_whole_shards)}
            for _ in range(ROUNDS): # a whole shard takes so long that a few show it
                for f in times: part = plan[:12] if f is from_whole_shards else plan; times[f].append(seconds(f, ShardStore(path, max_open=2), part)/len(part))
            rate = {f.__name__[5:]: SLICE_STEPS*STEP/min(t)/1e6 for f, t in times.items()}
            result |= {f'{order}_{k}_msamples_s': round(v, 2) for k, v in rate.items()} | {f'{order}_ratio': round(rate['slices']/rate['whole_shards'], 1)}
    print(json.dumps(result))
    return 0 if min(result['random_ratio'], result['by_shard_ratio']) >= result['target'] else 1


if __name__ == '__main__': sys.exit(main())
