"Rows for `test_shards`, in a module of their own so that a process that writes them starts quickly."
import sys
import numpy as np
from audioml.core import BadInput, derive_rng
from audioml.shards import audio_bytes, write_shards
from builders import Trace

RATE, ITEMS = 8000, [(f'row {n}', n) for n in range(20, 140)]


def make(n):
    "A row of `n` codes and ten samples for each; negative ones are bad."
    if n < 0: raise BadInput(f'cannot be {n} long', where='here')
    rng = derive_rng(n)
    return dict(length=n, codes=rng.integers(0, 4096, n).astype(np.uint16), gain=rng.random(), audio=audio_bytes(rng.normal(size=10*n)*.1, RATE, bits=16))


def slow_make(n):
    "As `make`, slow enough to be killed, and leaving a trace of every call."
    Trace().leave(f'row {n}')
    return make(n)


def sum_of(store, row_id): return int(store.row(row_id)['codes'].sum()) + float(store.audio(row_id, 3, 20).sum())


if __name__ == '__main__':
    print('go', flush=True)
    write_shards(sys.argv[1], ITEMS, slow_make, rows_per_shard=5, n_workers=int(sys.argv[2]), progress=False)
