"The drum run from a folder of recordings to a bundle, as papermill executes it, with files in the folder that cannot be used."
import numpy as np, pytest, soundfile
from audioml.drums.data import find_recordings
from audioml.drums.transcribe import load_transcriber
from audioml.midi import make_notes, read_midi, render, write_midi
from audioml.stores import FeatureStore
from runs import audioml, execute, metrics_of, printed, start

TINY = dict(preset='tiny', n_songs=0, n_eval_songs=0, n_epoch=2, window_seconds=2., windows_per_song=2, bs=8, lr=5e-3, n_workers=0)
SECONDS, RATE = 4., 22050

def song(rng):
    "A little pattern and its sound."
    t = np.arange(0, SECONDS-.5, .25) + rng.normal(0, .01, len(np.arange(0, SECONDS-.5, .25))).clip(-.02, .02) + .03
    notes = make_notes(onset=np.r_[t, t[::2], t[1::4]], pitch=np.r_[[42]*len(t), [36]*len(t[::2]), [38]*len(t[1::4])], velocity=rng.integers(60, 120, len(t)+len(t[::2])+len(t[1::4])))
    return notes, render(notes, RATE, tail=.5)

def spoil(folder):
    "Five recordings, each bad in a way of its own."
    (folder/'song00.wav').write_bytes(b'')
    (folder/'song10.wav').write_text('this is no audio')
    data = (folder/'song20.wav').read_bytes(); (folder/'song20.wav').write_bytes(data[:len(data)//2])
    soundfile.write(folder/'song30.wav', np.full(RATE, np.nan, np.float32), RATE, subtype='FLOAT')
    data = (folder/'song40.mid').read_bytes(); (folder/'song40.mid').write_bytes(data[:30])
    return {f'own/song{i}' for i in ('00', '10', '20', '30', '40')}

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('drums'); folder = tmp/'mine'; folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(50):
        notes, clip = song(rng)
        write_midi(notes, folder/f'song{i:02}.mid'); clip.save(folder/f'song{i:02}.wav')
    bad = spoil(folder)
    execute('70_drums_train', tmp/'out.ipynb', TINY | dict(data_dir=folder, run_dir=tmp/'run'))
    return tmp, bad

def test_trains_on_45_and_names_the_5(run):
    tmp, bad = run
    assert len(FeatureStore(tmp/'run'/'store')) == 45
    assert set(metrics_of(tmp/'run')['skipped']) == bad
    assert all(f'skipped {name}' in printed(tmp/'out.ipynb') for name in bad)

def test_leaves_the_folder_that_was_promised(run):
    tmp, _ = run
    there = {p.name for p in (tmp/'run').iterdir()}
    assert {'params.json', 'model', 'history.csv', 'metrics.json', 'figures', 'checkpoints', 'midi'} <= there
    metrics = metrics_of(tmp/'run')
    assert 0 <= metrics['micro_f'] <= 1 and metrics['n_parameters'] > 10_000
    assert len((tmp/'run'/'history.csv').read_text().splitlines()) == 1 + TINY['n_epoch']
    assert all(len(read_midi(f)) >= 0 for f in (tmp/'run'/'midi').glob('*.mid')) and list((tmp/'run'/'midi').glob('*.mid'))

def test_its_bundle_transcribes_from_the_command_line(run):
    tmp, _ = run
    res = audioml('drums', 'transcribe', tmp/'mine'/'song01.wav', '-o', tmp/'song01.mid', '--bundle', tmp/'run'/'model')
    assert res.returncode == 0, res.stderr
    notes = load_transcriber(tmp/'run'/'model').transcribe(tmp/'mine'/'song01.wav')
    assert len(read_midi(tmp/'song01.mid')) == len(notes)

def test_a_finished_run_is_kept(run):
    tmp, _ = run
    before = (tmp/'run'/'metrics.json').read_bytes()
    res = start('70_drums_train', dict(preset='tiny', run_dir=tmp/'run'))
    assert res.returncode == 2 and 'finished' in res.stderr and 'Traceback' not in res.stderr
    assert (tmp/'run'/'metrics.json').read_bytes() == before

def test_a_folder_without_recordings_says_so(tmp_path):
    (tmp_path/'notes.txt').write_text('hello')
    with pytest.raises(ValueError, match='no recording with notes beside it'): find_recordings(tmp_path)
