"The comparison of piano models as its users run it: a notebook with parameters, interrupted and gone on with."
import os
import numpy as np, pytest
from audioml.models.encoder import PatchConfig
from audioml.piano.compare import pretrain
from audioml.piano.data import piano_store, random_clips
from audioml.piano.pretrain import PretrainConfig, pretrain_recipe
from runs import audioml, metrics_of

SMALL = dict(n_clips=24, pretrain_epochs=1, n_epoch=1, n_pieces=4, n_players=4, n_segments=2, n_seeds=2, n_other_seeds=1, folds=2)

@pytest.fixture(scope='module')
def encoder(tmp_path_factory):
    "A small encoder that was taught notes for a moment."
    folder = tmp_path_factory.mktemp('encoder')
    store = piano_store(folder/'store', random_clips(24, 6.), notes=True)
    shape = PatchConfig(dim=48, n_layers=1, n_heads=2)
    pretrain(store, PretrainConfig(shape), pretrain_recipe(2, lr=5e-3), folder/'run')
    return folder/'run'

def start(out, encoder, **params):
    "Run the notebook; its exit code and what it said."
    pairs = [x for k, v in (SMALL | dict(encoder=str(encoder)) | params).items() for x in ('-p', f'{k}={v}')]
    env = {k: v for k, v in os.environ.items() if k != 'AUDIOML_DATA'} | dict(AUDIOML_PROGRESS='off', OMP_NUM_THREADS='1')
    done = audioml('runs', 'start', '82_piano_compare', '--out', out, *pairs, env=env, timeout=600)
    return done.returncode, done.stdout + done.stderr

def test_compare_embedded(tmp_path, encoder):
    code, said = start(tmp_path/'run', encoder)
    assert code == 0, said[-2000:]
    metrics = metrics_of(tmp_path/'run')
    rows = metrics['table']
    assert {'published forest', 'identity only', 'ridge', 'random forest', 'extra trees', 'ensemble', 'AST', 'AST, notes', 'AST, patches 75 %', 'AST, patches 15 %', 'hybrid'} <= set(rows)
    assert all(r['low'] <= r['R2'] <= r['high'] and -1 <= r['r'] <= 1 for r in rows.values())
    assert rows['published forest']['p'] is None and 0 <= rows['ensemble']['p'] <= rows['ensemble']['p_holm'] <= 1  # the baseline is not tested against itself
    assert set(metrics['others']) == {'player', 'piece'} and (tmp_path/'run'/'figures'/'by_segment.png').exists()
    kept = sorted((tmp_path/'run'/'predictions'/'segment').glob('*.npy'))
    assert len([f for f in kept if f.name.startswith('ridge.')]) == 4 and len([f for f in kept if f.name.startswith('ast.')]) == 2
    first = {f.name: f.stat().st_mtime_ns for f in kept}
    lost = kept[0]; before = np.load(lost); lost.unlink()  # as if it had been interrupted there
    code, said = start(tmp_path/'run', encoder, overwrite=True)
    assert code == 0, said[-2000:]
    assert np.allclose(np.load(lost), before, atol=1e-5)
    assert {f.name for f in kept if f.stat().st_mtime_ns != first[f.name]} == {lost.name}  # the others were not computed again

def test_bad_questions(tmp_path, encoder):
    code, said = start(tmp_path/'a', encoder, split='hall', networks=False)
    assert code == 2 and "no split by 'hall'" in said.splitlines()[-1]
    code, said = start(tmp_path/'b', encoder, data=str(tmp_path))
    assert code == 2 and 'PercePiano folder' in said.splitlines()[-1]
    assert start(tmp_path/'c', tmp_path/'none')[0] == 2
