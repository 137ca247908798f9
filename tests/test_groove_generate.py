"The style sheet from a bundle and a folder of played patterns to its report, as papermill executes it; and a long file humanised in the memory of a short one."
import json, subprocess, sys
import papermill, pytest, torch
from audioml.groove.data import embedded_songs
from audioml.groove.generate import save_generator
from audioml.groove.model import GrooveModel, model_config
from audioml.midi import read_pattern, write_pattern
from runs import execute, metrics_of

STYLES = ('funk', 'jazz')

@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    return save_generator(tmp_path_factory.mktemp('bundle')/'model', GrooveModel(model_config((*STYLES, 'polka'), 'tiny', n_layers=1)), '# Untrained')

@pytest.fixture(scope='module')
def played(tmp_path_factory):
    "A folder of embedded songs as somebody's own, with a broken file."
    folder, rows = tmp_path_factory.mktemp('played'), ['file,style,kind,split']
    for split, n in dict(train=24, valid=12).items():
        for i, s in enumerate(embedded_songs(n, n_bars=4, split=split, styles=STYLES)):
            write_pattern(s.source.load(), folder/f'{split}{i}.mid'); rows.append(f'{split}{i}.mid,{s.style},{s.kind},{split}')
    (folder/'cut.mid').write_bytes((folder/'train0.mid').read_bytes()[:60]); rows.append('cut.mid,funk,beat,train')
    (folder/'styles.csv').write_text('\n'.join(rows))
    return folder

def run(tmp, **parameters): execute('76_groove_generate', tmp/'out.ipynb', dict(run_dir=tmp/'run', bars=2, n_patterns=2) | parameters)

@pytest.fixture(scope='module')
def sheet(tmp_path_factory, bundle, played):
    tmp = tmp_path_factory.mktemp('sheet')
    run(tmp, bundle=str(bundle), real_dir=str(played))
    return tmp

def test_the_sheet_has_every_style(sheet):
    files = sorted((sheet/'run'/'midi').glob('*.mid'))
    assert [f.stem for f in files] == [f'{s}_00{i}' for s in (*STYLES, 'polka') for i in (1, 2)]
    assert all(read_pattern(f).notes.is_drum.all() for f in files)
    assert {p.name for p in (sheet/'run'/'figures').iterdir()} == {'sheet.png', 'distributions.png', 'recognition.png'}

def test_its_figures_are_told(sheet):
    m = metrics_of(sheet/'run')
    assert m['n_patterns'] == m['read_back'] == 6 and 0 <= m['overlap_density'] <= 1 and 0 <= m['overlap_velocity'] <= 1
    assert m['recognised']['played']['accuracy'] > .8 and 0 <= m['recognised_ratio'] <= 1.5  # rules are easy to tell apart, noise is not
    assert m['longest_match']['generated']['longest'] < 60 and len(m['skipped']) == 1 and 'cut.mid' in m['skipped'][0]
    params = json.loads((sheet/'run'/'params.json').read_text())
    assert params['bars'] == 2 and params['seed'] == 0

def test_a_finished_sheet_is_kept(sheet, bundle):
    before = (sheet/'run'/'metrics.json').read_bytes()
    with pytest.raises(papermill.PapermillExecutionError, match='this run is finished'): run(sheet, bundle=str(bundle))
    assert (sheet/'run'/'metrics.json').read_bytes() == before

@pytest.mark.parametrize('parameters, says', [(dict(styles='funk,tango'), "unknown style 'tango'"), (dict(n_patterns=0), '0 patterns of a style')])
def test_a_typing_error_costs_nothing(tmp_path, sheet, bundle, parameters, says):
    "Not even the finished run that was to be replaced."
    before = (sheet/'run'/'metrics.json').read_bytes()
    with pytest.raises(papermill.PapermillExecutionError, match=says): run(sheet, bundle=str(bundle), overwrite=True, **parameters)
    assert (sheet/'run'/'metrics.json').read_bytes() == before

def test_without_a_folder_and_with_one_style(tmp_path, bundle):
    run(tmp_path, bundle=str(bundle), styles='polka', tempo=90.)
    m = metrics_of(tmp_path/'run')
    assert m['compared_with'] == 'embedded patterns' and m['recognised'] == {} and m['overlap_density'] is None and m['n_patterns'] == 2
    assert abs(read_pattern(tmp_path/'run'/'midi'/'polka_001.mid').tempo - 90) < 1e-3

LONG = '''
import resource, sys, torch
from audioml.groove.generate import Generator
from audioml.groove.model import GrooveModel, model_config
from audioml.midi import Pattern, make_notes
import numpy as np
n = int(sys.argv[1]); step = np.arange(n)
pattern = Pattern(make_notes(step/4, np.where(step % 2, 42, 36), 90))
generator = Generator(GrooveModel(model_config(('funk',), 'tiny', n_layers=1)), 'cpu')
felt = generator.humanize(pattern, n_histories=2)
assert len(felt.notes) == n
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024)
'''

def test_memory_does_not_grow_with_the_file():
    short, long = (int(subprocess.run([sys.executable, '-c', LONG, str(n)], capture_output=True, text=True, check=True).stdout) for n in (50, 2000))
    assert long - short < 60, f'{short} MB for 50 strokes, {long} MB for 2000'
