"The groove runs as papermill executes them: from a folder of MIDI, some of it broken, to a bundle, and from the bundle to a style sheet."
import pytest
from audioml.groove.data import embedded_songs
from audioml.groove.generate import load_generator
from audioml.midi import read_pattern, write_pattern
from runs import audioml, execute, metrics_of, printed

TINY = dict(preset='tiny', n_epoch=2, bs=2, row_length=512, n_workers=0)
STYLES = ('rock', 'jazz')

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('groove'); folder = tmp/'mine'
    for s in embedded_songs(50, n_bars=4, styles=STYLES): write_pattern(s.source.load(), folder/s.style/f'{s.id[-2:]}.mid')
    files = sorted(folder.rglob('*.mid'))
    bad = [files[i] for i in (3, 14, 25, 36, 47)]
    bad[0].write_bytes(b''); bad[1].write_text('this is no MIDI'); bad[2].write_bytes(bad[2].read_bytes()[:80])
    bad[3].write_bytes(bad[3].read_bytes()[:-6]); bad[4].write_bytes(b'MThd' + bytes(60))
    execute('75_groove_train', tmp/'out.ipynb', TINY | dict(data_dir=folder, run_dir=tmp/'run'))
    return tmp, {p.relative_to(folder).with_suffix('').as_posix() for p in bad}

def test_trains_on_45_and_names_the_5(run):
    tmp, bad = run
    metrics = metrics_of(tmp/'run')
    assert set(metrics['skipped']) == bad
    assert all(f'skipped {name}' in printed(tmp/'out.ipynb') for name in bad)

def test_leaves_the_folder_that_was_promised(run):
    tmp, _ = run
    assert {'params.json', 'model', 'history.csv', 'metrics.json', 'figures', 'checkpoints', 'midi'} <= {p.name for p in (tmp/'run').iterdir()}
    metrics = metrics_of(tmp/'run')
    assert 0 < metrics['bits_per_token'] < 7 and 0 < metrics['ngram_bits_per_token'] < 7
    assert metrics['bits_per_note'] > metrics['bits_per_token'] and metrics['n_parameters'] > 10_000
    assert len((tmp/'run'/'history.csv').read_text().splitlines()) == 1 + TINY['n_epoch']
    assert {p.stem for p in (tmp/'run'/'midi').glob('*.mid')} == set(STYLES)

def test_its_bundle_generates_from_the_command_line(run):
    tmp, _ = run
    args = ['groove', 'generate', '--style', 'jazz', '--bars', '2', '--tempo', '150', '-o', str(tmp/'jazz.mid'), '--bundle', str(tmp/'run'/'model')]
    res = audioml(*args)
    assert res.returncode == 0, res.stderr
    pattern = read_pattern(tmp/'jazz.mid')
    assert pattern.tempo == 150 and pattern.n_bars <= 2 and len(pattern.notes)
    assert load_generator(tmp/'run'/'model').styles == tuple(sorted(STYLES))

def test_a_finished_run_is_kept(run):
    tmp, _ = run
    before = (tmp/'run'/'metrics.json').read_bytes()
    res = audioml('runs', 'start', 'groove_train', '--out', tmp/'run')
    assert res.returncode == 2 and 'finished' in res.stderr and 'Traceback' not in res.stderr
    assert (tmp/'run'/'metrics.json').read_bytes() == before
