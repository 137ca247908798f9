"The Beat Saber runs as papermill executes them: an ear from nothing, by the command line; a writer of blocks that is killed on the way; lights from a folder of maps, one of them broken."
import json
import numpy as np, pytest
from safetensors.numpy import load_file
from runs import RUNS, execute, kill_in_training, metrics_of, printed, start

TINY = dict(preset='tiny', n_songs=6, song_seconds=20., n_epoch=1, n_workers=0)
PROMISED = {'params.json', 'model', 'history.csv', 'metrics.json', 'figures', 'checkpoints'}

@pytest.fixture(scope='module')
def tmp(tmp_path_factory): return tmp_path_factory.mktemp('beatsaber')

@pytest.fixture(scope='module')
def ear(tmp):
    "Started from the command line; the songs it makes serve the next stage too."
    given = TINY | dict(run_dir=tmp/'onsets', store_dir=tmp/'store')
    done = start('beatsaber_onsets', given)
    assert done.returncode == 0, done.stderr[-3000:]
    return tmp/'onsets'

def test_an_ear_from_nothing(ear):
    assert PROMISED | {'90_beatsaber_onsets.ipynb'} == {p.name for p in ear.iterdir()}
    assert {'example', 'learning_curve', 'scores', 'heard'} == {p.stem for p in (ear/'figures').glob('*.png')}
    m = metrics_of(ear)
    assert m['n_songs'] == dict(train=4, valid=1, test=1) and m['split'] == 'test' and m['skipped'] == []
    assert set(m['thresholds']) == {'Easy', 'Normal', 'Hard', 'Expert', 'ExpertPlus'} and all(0 < t < 1 for t in m['thresholds'].values())
    assert set(m['f_by_difficulty']) <= set(m['thresholds']) and all(0 <= f <= 1 for f in [m['onset_f'], m['precision'], m['recall'], *m['f_by_difficulty'].values()])
    assert {'growth of the spectrogram', 'every beat', 'every half beat'} == set(m['baselines']) and m['baselines']['every beat'] > .2  # the grid is where it should be
    assert m['n_onsets'] > 50 and set(m['seconds']) == {'data', 'fit', 'report'} and m['peak_memory_mb'] > 100
    card = (ear/'model'/'README.md').read_text()
    assert 'Apache-2.0' in card and 'audioml runs start 90_beatsaber_onsets' in card and f'| threshold, Hard | {m["thresholds"]["Hard"]:.3f} |' in card

def test_its_bundle_hears(ear):
    from audioml.beatsaber.model import OnsetModel, hear_song, load_stage
    p = hear_song(load_stage(ear/'model', OnsetModel), np.random.default_rng(0).normal(-6, 1, (1500, 98)), [[1, 0], [5, 0]])['onsets']
    assert p.shape == (1500, 2) and (p > 0).all() and (p < 1).all()

def test_a_finished_run_is_kept(ear):
    before = (ear/'metrics.json').read_bytes()
    done = start('90_beatsaber_onsets', dict(run_dir=ear))
    assert done.returncode == 2 and 'finished' in done.stderr and 'Traceback' not in done.stderr
    assert (ear/'metrics.json').read_bytes() == before

@pytest.fixture(scope='module')
def writers(ear, tmp):
    "Two runs that are the same, but that one of them is killed and resumed."
    whole, killed = (TINY | dict(store_dir=str(tmp/'store'), n_epoch=2, n_written=2, difficulties='Hard, Expert', dropout=.1, run_dir=str(tmp/name)) for name in ('whole', 'killed'))
    kill_in_training('91_beatsaber_notes', killed)
    assert not (tmp/'killed'/'metrics.json').exists()
    execute('91_beatsaber_notes', tmp/'killed.ipynb', killed | dict(resume=True))
    execute('91_beatsaber_notes', tmp/'whole.ipynb', whole)
    return tmp/'whole', tmp/'killed'

def test_a_killed_run_ends_as_if_it_had_not_been(writers):
    a, b = writers
    assert (a/'history.csv').read_bytes() == (b/'history.csv').read_bytes() and len((a/'history.csv').read_text().splitlines()) == 3
    ours, theirs = (load_file(run/'model'/'model.safetensors') for run in writers)
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[k], theirs[k]) for k in ours)
    same = lambda run: {k: v for k, v in metrics_of(run).items() if k not in ('seconds', 'peak_memory_mb')}
    assert same(a) == same(b)

def test_a_writer_of_blocks(writers):
    run, _ = writers; m = metrics_of(run)
    assert PROMISED == {p.name for p in run.iterdir()}
    assert {'example', 'learning_curve', 'bits_by_family', 'written'} == {p.stem for p in (run/'figures').glob('*.png')}
    assert m['saved'] == pytest.approx(1 - m['bits_per_token']/m['bigram_bits_per_token'], abs=1e-3)
    assert 1 < m['bigram_bits_per_token'] < m['bits_per_token'] < 9.5  # log2(663) = 9.37: it has begun to learn, no more
    assert sum(f['n'] for f in m['by_family'].values()) == m['n_tokens'] and m['by_family']['note']['n'] == m['by_family']['direction']['n']
    assert m['written']['map']['parity errors, share of swings'] == 0 and m['written']['map']['blocks a second'] > .5
    assert '(Hard, Expert)' in (run/'model'/'README.md').read_text()

def test_its_bundle_starts_another_and_no_other_stage(writers):
    from audioml.beatsaber.learner import start_from
    from audioml.beatsaber.model import LightConfig, LightModel, NoteModel, note_model_config
    from audioml.core import BadInput
    start_from(NoteModel(note_model_config('tiny')), writers[0]/'model')
    with pytest.raises(BadInput, match='beatsaber-notes'): start_from(LightModel(note_model_config('tiny', LightConfig)), writers[0]/'model')

@pytest.fixture(scope='module')
def lit(tmp):
    "Lights from packages as players have them."
    from audioml.beatsaber.level import write_level
    from audioml.beatsaber.synth import embedded_level
    for i in range(5):
        level, clip = embedded_level(i, seconds=20., names=('Hard', 'ExpertPlus'), sample_rate=22050)
        write_level(level, tmp/'maps'/f'{i}.zip', clip)
    broken = tmp/'maps'/'broken.zip'; broken.write_bytes((tmp/'maps'/'0.zip').read_bytes()[:5000])
    execute('92_beatsaber_lights', tmp/'lights.ipynb', TINY | dict(data_dir=str(tmp/'maps'), store_dir='', n_written=2, run_dir=str(tmp/'lights'), credits='Maps by nobody.'))
    return tmp/'lights'

def test_lights_of_a_folder_of_maps(lit, tmp):
    assert PROMISED | {'store'} == {p.name for p in lit.iterdir()}
    m = metrics_of(lit)
    assert m['skipped'] == ['broken.zip'] and 'skipped broken.zip' in printed(tmp/'lights.ipynb')
    assert sum(m['n_songs'].values()) == 5 and m['split'] == ('test' if m['n_songs']['test'] else 'valid')
    assert {'example', 'learning_curve', 'bits_by_family', 'written'} == {p.stem for p in (lit/'figures').glob('*.png')}
    assert 1 < m['bigram_bits_per_token'] < m['bits_per_token'] < 8.5 and m['by_family']['event']['n'] == m['by_family']['value']['n']  # log2(341) = 8.41
    assert m['written']['map']['lights that go on, a minute'] > 20
    card = (lit/'model'/'README.md').read_text()
    assert 'songs of maps' in card and 'Maps by nobody.' in card

def test_what_cannot_be_used_is_said_in_one_line(ear, tmp):
    "As `BadInput`, which the command line makes a line and exit code 2, and before anything is trained."
    from audioml.core import BadInput
    (tmp/'empty').mkdir()
    cases = [('90_beatsaber_onsets', dict(exclude='embedded'), "there is no song for 'train'"), ('91_beatsaber_notes', dict(difficulties='Hardest'), "no difficulty 'Hardest'"),
             ('91_beatsaber_notes', dict(init_bundle=str(ear/'model')), 'is a bundle for'), ('92_beatsaber_lights', dict(data_dir=str(tmp/'empty')), 'holds no map')]
    for i, (name, more, said) in enumerate(cases):
        given, ns = TINY | dict(store_dir=str(tmp/'store'), run_dir=str(tmp/f'bad{i}')) | more, {}
        with pytest.raises(BadInput, match=said) as caught:
            for cell in json.loads((RUNS/f'{name}.ipynb').read_text())['cells']:
                if cell['cell_type'] == 'code': exec(''.join(cell['source']), ns)
                if 'parameters' in cell['metadata'].get('tags', []): ns.update(given)
        assert '\n' not in str(caught.value) and not (tmp/f'bad{i}'/'history.csv').exists()
