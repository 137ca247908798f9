"The drum run from a folder of recordings to a bundle, as papermill executes it, with files in the folder that cannot be used."
import json, subprocess, sys
from pathlib import Path
import numpy as np, papermill, pytest, soundfile
from audioml.drums.data import find_recordings
from audioml.drums.transcribe import load_transcriber
from audioml.midi import make_notes, read_midi, render, write_midi
from audioml.stores import FeatureStore

NOTEBOOK = Path(__file__).parent.parent/'nbs'/'runs'/'70_drums_train.ipynb'
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
    papermill.execute_notebook(NOTEBOOK, tmp/'out.ipynb', TINY | dict(data_dir=str(folder), run_dir=str(tmp/'run')), progress_bar=False)
    return tmp, bad

def test_trains_on_45_and_names_the_5(run):
    tmp, bad = run
    assert len(FeatureStore(tmp/'run'/'store')) == 45
    assert set(json.loads((tmp/'run'/'metrics.json').read_text())['skipped']) == bad
    printed = ''.join(''.join(o.get('text', '')) for c in json.loads((tmp/'out.ipynb').read_text())['cells'] for o in c.get('outputs', []))
    assert all(f'skipped {name}' in printed for name in bad)

def test_leaves_the_folder_that_was_promised(run):
    tmp, _ = run
    there = {p.name for p in (tmp/'run').iterdir()}
    assert {'params.json', 'model', 'history.csv', 'metrics.json', 'figures', 'checkpoints', 'midi'} <= there
    metrics = json.loads((tmp/'run'/'metrics.json').read_text())
    assert 0 <= metrics['micro_f'] <= 1 and metrics['n_parameters'] > 10_000
    assert len((tmp/'run'/'history.csv').read_text().splitlines()) == 1 + TINY['n_epoch']
    assert all(len(read_midi(f)) >= 0 for f in (tmp/'run'/'midi').glob('*.mid')) and list((tmp/'run'/'midi').glob('*.mid'))

def test_its_bundle_transcribes_from_the_command_line(run):
    tmp, _ = run
    args = [sys.executable, '-c', 'from audioml.cli import main; main()', 'drums', 'transcribe', str(tmp/'mine'/'song01.wav'), '-o', str(tmp/'song01.mid'), '--bundle', str(tmp/'run'/'model')]
    res = subprocess.run(args, capture_output=True, text=True)
    assert res.returncode == 0, res.stderr
    notes = load_transcriber(tmp/'run'/'model').transcribe(tmp/'mine'/'song01.wav')
    assert len(read_midi(tmp/'song01.mid')) == len(notes)

def test_a_finished_run_is_kept(run):
    tmp, _ = run
    before = (tmp/'run'/'metrics.json').read_bytes()
    res = subprocess.run([sys.executable, '-c', 'from audioml.cli import main; main()', 'runs', 'start', '70_drums_train', '--out', str(tmp/'run'), '-p', 'preset=tiny'], capture_output=True, text=True)
    assert res.returncode == 2 and 'finished' in res.stderr and 'Traceback' not in res.stderr
    assert (tmp/'run'/'metrics.json').read_bytes() == before

def test_a_folder_without_recordings_says_so(tmp_path):
    (tmp_path/'notes.txt').write_text('hello')
    with pytest.raises(ValueError, match='no recording with notes beside it'): find_recordings(tmp_path)
