"Songs for `test_stores`, in a module of their own so that a process that builds them starts quickly."
import sys
import numpy as np
from audioml.core import BadInput, derive_rng
from audioml.stores import build_store
from builders import Trace

SONGS = [(f'song {n}', n) for n in range(20, 220)]


def make(n):
    "A song of `n` frames; negative ones are bad."
    if n < 0: raise BadInput(f'cannot be {n} frames long', where='here')
    return dict(features=derive_rng(n).normal(size=(n, 8)).astype(np.float16), notes=np.arange(n//3, dtype=np.float32), meta=dict(tempo=n/2))


def slow_make(n):
    "As `make`, slow enough to be killed, and leaving a trace of every call."
    Trace().leave(f'song {n}')
    return make(n)


def sum_of(store, song_id): return float(store.read(song_id).astype(np.float64).sum())


if __name__ == '__main__':
    print('go', flush=True)
    build_store(sys.argv[1], SONGS, slow_make, n_workers=int(sys.argv[2]), rate=100, sync_every=.02, progress=False)
