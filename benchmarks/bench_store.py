"""Reading windows from a store against copying the same bytes in memory. Prints one line of JSON.

Windows of 20 s of float16 (T, 96) at 100 frames a second are read in random order from a store that is warm in the page cache,
into one preallocated batch. The yardstick is numpy copying windows of the same size from an array in memory, in the same
order, into the same batch. The two take turns, the store is opened anew each time, and the best of several rounds counts, so
that neighbours on the machine do not.
"""
import json, sys, tempfile, time
from pathlib import Path
import numpy as np
from audioml.stores import FeatureStore, build_store

N_SONGS, SECONDS, FRAME_RATE, N_MELS, WINDOW, BATCH, READS, ROUNDS = 96, 180, 100, 96, 2000, 16, 6000, 7


def song(seed):
    rng = np.random.default_rng(seed)
    return dict(features=rng.integers(0, 2**15, (SECONDS*FRAME_RATE, N_MELS), dtype=np.uint16).view(np.float16))


def plan(n_reads):
    rng = np.random.default_rng(0)
    return list(zip(rng.integers(N_SONGS, size=n_reads).tolist(), rng.integers(SECONDS*FRAME_RATE-WINDOW, size=n_reads).tolist()))


def seconds(copy, reads, batch):
    t = time.thread_time() # a busy neighbour takes wall time, not ours
    for i, (s, start) in enumerate(reads): copy(s, start, batch[i % BATCH])
    return time.thread_time()-t


def main():
    with tempfile.TemporaryDirectory() as tmp:
        store = build_store(Path(tmp)/'store', [(f'{i}', i) for i in range(N_SONGS)], song, rate=FRAME_RATE, progress=False)
        ids = store.ids
        memory = np.concatenate([store.read(i) for i in ids]) # also warms the page cache
        reads, batch = plan(READS), np.zeros((BATCH, WINDOW, N_MELS), np.float16)
        n = SECONDS*FRAME_RATE

        def from_memory(s, start, out): np.copyto(out, memory[s*n+start:s*n+start+WINDOW])
        def from_store(s, start, out): opened.read(ids[s], 'features', start, start+WINDOW, out=out)

        s, start = reads[0]
        assert np.array_equal(store.read(ids[s], start=start, stop=start+WINDOW).view(np.uint16), memory[s*n+start:s*n+start+WINDOW].view(np.uint16))
        times = {'store': [], 'memory': []}
        for _ in range(ROUNDS):
            opened = FeatureStore(store.path)
            times['store'].append(seconds(from_store, reads, batch))
            times['memory'].append(seconds(from_memory, reads, batch))
        gigabytes = len(reads)*batch[0].nbytes/1e9
        store_gbs, memory_gbs = (gigabytes/min(times[k]) for k in ('store', 'memory'))
        result = dict(name='store', store_mb=round(memory.nbytes/1e6), windows=READS,
                      store_gb_s=round(store_gbs, 2), memory_gb_s=round(memory_gbs, 2), ratio=round(store_gbs/memory_gbs, 3), target=0.8)
    print(json.dumps(result))
    return 0 if result['ratio'] >= result['target'] else 1


if __name__ == '__main__': sys.exit(main())
