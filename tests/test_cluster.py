"Work on Ray, for real: stores and shards that a cluster makes are the ones that one process makes."
import os
from pathlib import Path
import pytest
from audioml.cluster import cluster, map_on_ray
from audioml.core import file_hash
from audioml.shards import write_shards
from audioml.stores import build_store
from store_songs import SONGS, make

pytestmark = pytest.mark.alone
pytest.importorskip('ray')

@pytest.fixture(scope='module')
def two_workers():
    "Workers import from the folder where they were started."
    before = os.getcwd(); os.chdir(Path(__file__).parent)
    with cluster(2) as ray: yield ray
    os.chdir(before)
    assert not ray.is_initialized()

def files(path): return {f.name: file_hash(f) for f in path.iterdir() if f.suffix in ('.bin', '.parquet', '.csv', '.jsonl') or f.name == 'manifest.json'}

def row(n):
    "A song as a row of a shard."
    made = make(n)
    return dict(length=n, features=made['features'].ravel(), tempo=made['meta']['tempo'])

@pytest.mark.parametrize('build', [build_store, lambda path, items, make, **kw: write_shards(path, items, row, rows_per_shard=7, **kw)], ids=['store', 'shards'])
def test_ray_builds_what_one_process_builds(two_workers, tmp_path, build):
    "Byte for byte, with bad items among them, and beginning with some that are there already."
    items = [*SONGS[:20], ('bad', -3), *SONGS[20:40]]
    build(tmp_path/'ray', items[:7], make, progress=False)
    store = build(tmp_path/'ray', items, make, n_workers=2, mapper=map_on_ray, progress=False)
    assert files(store.path) == files(build(tmp_path/'here', items, make, progress=False).path)
    assert store.skipped['id'].tolist() == ['bad'] and 'cannot be -3 frames long' in store.skipped['error'][0]

def test_a_bug_is_raised(two_workers):
    seen = []
    with pytest.raises(ZeroDivisionError): map_on_ray(lambda x: 1/x, [1, 2, 0], done=lambda i, r: seen.append(r))
    assert seen == [1, .5]

def test_a_block_in_a_block_shares_its_cluster(two_workers):
    with cluster(5, 'nowhere:1') as ray: assert ray.cluster_resources()['CPU'] == 2
    assert ray.is_initialized()
