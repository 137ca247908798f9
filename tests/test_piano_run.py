"The piano runs as papermill executes them: from a folder of MIDI, some of it broken, to an encoder; from the encoder to a rater; and what is said of data that cannot be used."
import subprocess
import numpy as np, pytest, torch
from runs import AUDIOML, execute, kill_in_training, metrics_of, printed

ENCODER = dict(n_clips=15, per_piece=3, dim=32, n_layers=1, n_heads=2, n_epoch=4, bs=4, n_workers=0, objective='both', patch='32x8')
RATER = dict(n_pieces=2, n_players=8, n_epoch=1, n_workers=0)

@pytest.fixture(scope='module')
def encoder_run(tmp_path_factory):
    from audioml.midi import write_midi
    from audioml.piano.synth import random_performance
    tmp = tmp_path_factory.mktemp('encoder')
    for i in range(5): write_midi(random_performance(i, 20.).notes, tmp/'midi'/f'{i}.mid')
    (tmp/'midi'/'broken.mid').write_bytes(b'MThd' + bytes(60))
    params = ENCODER | dict(data=str(tmp/'midi'), run_dir=str(tmp/'run'), n_clips=18)
    kill_in_training('80_piano_pretrain', params)
    assert not (tmp/'run'/'metrics.json').exists()
    execute('80_piano_pretrain', tmp/'out.ipynb', params | dict(resume=True))
    return tmp

def test_a_killed_encoder_run_ends_like_any_other(encoder_run):
    run = encoder_run/'run'
    assert {'params.json', 'model', 'history.csv', 'metrics.json', 'figures', 'checkpoints', 'store'} <= {p.name for p in run.iterdir()}
    assert len((run/'history.csv').read_text().splitlines()) == 1 + ENCODER['n_epoch']
    assert {'example.png', 'learning_curve.png', 'heard.png', 'patches.png'} == {p.name for p in (run/'figures').iterdir()}
    metrics = metrics_of(run)
    assert {'onset_f', 'velocity_error', 'pedal', 'patches_found', 'variance_explained'} <= set(metrics)
    assert metrics['n_train'] + metrics['n_held_out'] == 15 and metrics['n_held_out'] == 3  # all stretches of one piece

def test_names_the_broken_file(encoder_run):
    assert len(metrics_of(encoder_run/'run')['skipped']) == 3
    assert 'skipped midi/broken#00' in printed(encoder_run/'out.ipynb')

def test_its_encoder_starts_a_rating_model(encoder_run):
    from audioml.models.encoder import PatchConfig
    from audioml.piano.model import PianoConfig, PianoModel
    from audioml.piano.pretrain import start_from
    model = PianoModel(PianoConfig(PatchConfig(dim=32, n_layers=1, n_heads=2, patch=(32, 8), stride=(32, 8))))
    before = model.encoder.positions.clone()
    assert not torch.equal(start_from(model, encoder_run/'run').encoder.positions, before)

@pytest.fixture(scope='module')
def rater_run(tmp_path_factory):
    from audioml.inference.bundle import save_bundle
    from audioml.models.encoder import PatchConfig
    from audioml.piano.pretrain import Pretrainer, PretrainConfig
    tmp = tmp_path_factory.mktemp('rater')
    torch.manual_seed(0)
    model = Pretrainer(PretrainConfig(PatchConfig(dim=32, n_layers=1, n_heads=2)))
    with torch.no_grad(): model.notes.weight.mul_(20)  # hears many notes, if not those that are played
    save_bundle(tmp/'encoder', model, model.cfg, 'A test.', 'piano_notes')
    execute('81_piano_train', tmp/'out.ipynb', RATER | dict(run_dir=str(tmp/'run'), encoder=str(tmp/'encoder'), encoder_lr=1., loss='mse+concordance', plain=True))
    return tmp

def test_leaves_the_folder_that_was_promised(rater_run):
    run = rater_run/'run'
    assert {'params.json', 'model', 'history.csv', 'metrics.json', 'figures', 'checkpoints', 'store'} <= {p.name for p in run.iterdir()}
    assert {'ratings', 'heard', 'learning_curve', 'results', 'dimensions', 'rating'} == {p.stem for p in (run/'figures').iterdir()}
    metrics = metrics_of(run)
    assert set(metrics['scores']) == {'mean', 'identity only', 'random forest', 'ensemble', 'network', 'network and ensemble'}
    for s in metrics['scores'].values(): assert s['low'] <= s['R2'] <= s['high'] and -1 <= s['r'] <= 1
    assert metrics['split'] == 'player' and metrics['held_out_groups'] == 2 and 0 < metrics['coverage'] <= 1

def test_its_rater_rates(rater_run):
    from audioml.piano.rate import load_rater
    from audioml.piano.data import embedded_clips
    rating = load_rater(rater_run/'run'/'model', 'cpu').rate(embedded_clips(1, 1, 1, seed=5)[0].source.load())
    assert ((rating.low <= rating.ratings) & (rating.ratings <= rating.high)).all() and np.isfinite(rating.ratings).all()
    assert 'audioml runs start 81_piano_train' in (rater_run/'run'/'model'/'README.md').read_text()

def test_bad_data_gets_one_line_and_exit_2(tmp_path):
    (tmp_path/'empty').mkdir()
    (tmp_path/'bad.csv').write_text('file,1,2\nnowhere.wav,3,4\n,5,6\n')
    (tmp_path/'odd.csv').write_text('file,loudness\na.wav,3\n')
    cases = [('81_piano_train', 'data', tmp_path/'bad.csv', 'none of 2 rows can be used; the first: bad.csv, row 2'), ('81_piano_train', 'data', tmp_path/'odd.csv', "unknown column 'loudness'"),
             ('81_piano_train', 'data', tmp_path/'empty', 'holds no label'), ('80_piano_pretrain', 'data', tmp_path/'empty', 'holds no MIDI file')]
    started = [subprocess.Popen([*AUDIOML, 'runs', 'start', name, '-p', f'{key}={value}', '--out', str(tmp_path/f'run{i}')], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
               for i, (name, key, value, _) in enumerate(cases)]
    for p, (*_, said) in zip(started, cases):
        err = p.communicate(timeout=300)[1]
        lines = [line for line in err.splitlines() if line.startswith('audioml: ')]
        assert p.returncode == 2 and len(lines) == 1 and said in lines[0] and 'Traceback' not in err, err
