"The codec run as papermill executes it: from nothing, and from a folder of recordings, one of them broken, with a codec that is there; and what is said of what cannot be used."
import subprocess
import numpy as np, pytest, soundfile, torch
from runs import AUDIOML, execute, metrics_of, printed

TINY = dict(n_sounds=16, sound_seconds=.8, codec_epochs=2, soft_epochs=1, codec_bs=4, n_epoch=2, seconds='0.2,0.4', valid_seconds=.4, bs=8, n_workers=0)

def train(out, **params): execute('86_codec_train', out, TINY | params)

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('codec')
    train(tmp/'out.ipynb', run_dir=tmp/'run')
    return tmp

def test_leaves_the_folder_that_was_promised(run):
    there = {p.name for p in (run/'run').iterdir()}
    assert {'params.json', 'model', 'history.csv', 'metrics.json', 'figures', 'checkpoints', 'codec', 'cache'} <= there
    assert len((run/'run'/'history.csv').read_text().splitlines()) == 1 + TINY['n_epoch']
    metrics = metrics_of(run/'run')
    assert set(metrics['scores']) == {'codec, resampled', 'this decoder'} and metrics['n_test'] > 0
    for scores in metrics['scores'].values(): assert {'mr_stft', 'mel', 'si_sdr', 'lsd_low', 'lsd_high'} <= set(scores) and np.isfinite(list(scores.values())).all()
    assert {'learning_curve.png', 'sound_0.png'} <= {p.name for p in (run/'run'/'figures').iterdir()}
    assert 'audioml runs start 86_codec_train' in (run/'run'/'model'/'README.md').read_text()

def test_its_bundle_decodes(run):
    from audioml.codec.model import load_upsampler
    model = load_upsampler(run/'run'/'model')
    with torch.no_grad(): out = model(torch.randn(1, 1, 5000)*.1, noise=0)
    assert out.shape == (1, 1, 10000) and out.isfinite().all() and out.abs().max() <= 1

def test_recordings_with_a_codec_that_is_there(run, tmp_path):
    from audioml.codec.synth import synth_sounds
    folder = tmp_path/'mine'; folder.mkdir()
    for name, sound in synth_sounds(12, seed=1, seconds=(.5, 1.)):
        x = sound.load().resample(44100).samples[0].numpy()
        soundfile.write(folder/f'{name}.wav', np.stack([x, .5*x], 1), 44100)
    (folder/'broken.wav').write_bytes(b'RIFF' + bytes(40))
    train(tmp_path/'out.ipynb', run_dir=tmp_path/'run', data_dir=folder, codec=run/'run'/'codec', adversarial=.1)
    metrics = metrics_of(tmp_path/'run')
    assert metrics['skipped'] == ['broken'] and 'skipped broken' in printed(tmp_path/'out.ipynb')
    assert not (tmp_path/'run'/'codec').exists()

def test_a_cache_of_the_other_run(run, tmp_path):
    "What `85_codec_cache` leaves is what this run learns from; the codec is named to both."
    codec = str(run/'run'/'codec')
    execute('85_codec_cache', tmp_path/'cache.ipynb', dict(run_dir=tmp_path/'cache', codec=codec, n_sounds=16, seconds=1., rows_per_shard=4, n_workers=0))
    metrics = metrics_of(tmp_path/'cache')
    assert metrics['rows'] == 16 and (tmp_path/'cache'/'cache'/'manifest.json').is_file()
    train(tmp_path/'train.ipynb', run_dir=tmp_path/'run', codec=codec, cache=tmp_path/'cache'/'cache', n_epoch=1, warm_epochs=0)
    assert (tmp_path/'run'/'model'/'config.json').is_file() and not (tmp_path/'run'/'cache').exists()

def test_what_cannot_be_used_gets_one_line_and_exit_2(run, tmp_path):
    (tmp_path/'empty').mkdir()
    cases = [(f'data_dir={tmp_path/"empty"}', 'holds no recordings'), (f'cache={run/"run"/"cache"}', 'not its codec')]
    started = [subprocess.Popen([*AUDIOML, 'runs', 'start', '86_codec_train', '-p', given, '--out', str(tmp_path/f'run{i}')], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
               for i, (given, _) in enumerate(cases)]
    for p, (_, said) in zip(started, cases):
        err = p.communicate(timeout=300)[1]
        lines = [line for line in err.splitlines() if line.startswith('audioml: ')]
        assert p.returncode == 2 and len(lines) == 1 and said in lines[0] and 'Traceback' not in err, err
