"The `audioml` command as its users meet it: a process with an exit code, an output and an error stream."
import ast, json, subprocess, sys
from pathlib import Path
import pytest
from runs import audioml, write_notebook

@pytest.fixture
def cli(tmp_path): return lambda *args: audioml(*args, cwd=tmp_path)

# help

def test_help_loads_nothing_heavy():
    code = 'import sys, audioml.cli; print(*{"torch", "torchaudio", "fastai", "pandas", "scipy", "matplotlib", "papermill", "librosa"} & {*sys.modules})'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split() == []

@pytest.mark.parametrize('args', [(), ('drums', 'transcribe'), ('beatsaber', 'automap'), ('beatsaber', 'remap'), ('runs', 'list'), ('runs', 'start'), ('runs', 'sweep'), ('version',)])
def test_every_command_has_help(cli, args):
    res = cli(*args, '--help')
    assert res.returncode == 0 and res.stdout.startswith('Usage: audioml') and not res.stderr

def test_installed_command(tmp_path):
    command = Path(sys.executable).parent/'audioml'
    if not command.exists(): pytest.skip('audioml is not installed beside this Python')
    assert subprocess.run([command, 'version'], cwd=tmp_path, capture_output=True, text=True).stdout.startswith('audioml ')

# bad input: one line, exit code 2

@pytest.mark.parametrize('args, says', [
    (('drums', 'transcribe', 'gone.wav'), 'gone.wav: no such file'),
    (('drums', 'transcribe', '.'), 'holds no recording'),
    (('drums', 'transcribe', 'a.wav', 'b.wav', '-o', 'out.mid'), 'one file for several recordings'),
    (('drums', 'transcribe', 'a.wav', '-o', 'out.txt'), 'neither a MIDI file nor a folder'),
    (('runs', 'start', 'no_such_run'), 'no run is called'),
    (('runs', 'start', 'toy.ipynb', '-p', 'm=2'), "unknown parameter 'm'; known: n, run_dir"),
    (('runs', 'start', 'toy.ipynb', '-p', 'n=7'), 'seven is too many'),
])
def test_bad_input_is_one_line(tmp_path, cli, args, says):
    write_notebook(tmp_path/'toy.ipynb', "from audioml.core import BadInput\nif n == 7: raise BadInput('seven is too many', where='toy')")
    res = cli(*args)
    assert res.returncode == 2, res.stderr
    lines = [l for l in res.stderr.splitlines() if l.startswith('audioml: ')]
    assert len(lines) == 1 and says in lines[0] and 'Traceback' not in res.stderr

@pytest.mark.parametrize('args', [('drums', 'transcribe'), ('drums', 'transcribe', 'a.wav', '--overlap', '1.5'), ('sing',), ('version', '--loud')])
def test_wrong_usage(cli, args):
    res = cli(*args)
    assert res.returncode == 2 and 'Usage' in res.stderr and 'Traceback' not in res.stderr

# runs

def test_run_leaves_its_notebook_and_a_finished_run_is_not_touched(tmp_path, cli):
    write_notebook(tmp_path/'toy.ipynb', 'print("n is", n)')
    start, run = ('runs', 'start', 'toy.ipynb', '-p', 'n=3', '--out', 'runs/mine'), tmp_path/'runs'/'mine'
    res = cli(*start)
    assert res.returncode == 0, res.stderr
    assert 'n is 3' in res.stdout and 'done: runs/mine/toy.ipynb' in res.stdout and 'n is 3' in (run/'toy.ipynb').read_text()
    (run/'metrics.json').write_text('{}'); (run/'toy.ipynb').write_text('precious')
    res = cli(*start)
    assert res.returncode == 2 and 'this run is finished' in res.stderr and (run/'toy.ipynb').read_text() == 'precious'

def test_bug_in_a_run_keeps_its_traceback(tmp_path, cli):
    write_notebook(tmp_path/'toy.ipynb', 'n/0')
    res = cli('runs', 'start', 'toy.ipynb')
    assert res.returncode == 1 and 'ZeroDivisionError' in res.stderr and 'Traceback' in res.stderr

def test_shipped_runs_declare_what_the_command_relies_on(root):
    from audioml.cli import run_notebooks, run_parameters, run_summary
    for path in run_notebooks().values():
        known = run_parameters(path)
        source = next(''.join(c['source']) for c in json.loads(path.read_text())['cells'] if 'parameters' in c['metadata'].get('tags', []))
        assigned = {t.id for node in ast.parse(source).body for t in (getattr(node, 'targets', None) or [node.target])}
        assert assigned == {*known}, f'{path}: papermill does not read {assigned - {*known}} (it knows no `|` in a type)'
        assert run_summary(path), f'{path} has no quoted line under its title'
        assert {'run_dir', 'overwrite', 'seed'} <= {*known}
        assert all(p['inferred_type_name'] != 'None' and p['help'] for p in known.values()), f'{path}: each parameter has a type and a comment'

# transcription with the bundle that ships

@pytest.fixture(scope='module')
def songs(tmp_path_factory, root):
    if not any((root/'audioml'/'bundles').glob('*/config.json')): pytest.skip('no bundle ships yet')
    from audioml.midi import make_notes, render
    folder = tmp_path_factory.mktemp('songs')
    clip = render(make_notes([.5, 1., 1.5, 2.], [36, 38, 36, 38]))
    for name in ('one.wav', 'more/two.flac', 'more/three.wav'):
        (folder/name).parent.mkdir(exist_ok=True); clip.save(folder/name)
    (folder/'broken.wav').write_bytes(b'RIFF nothing that anyone can hear')
    (folder/'empty.mp3').touch()
    (folder/'more'/'cover.jpg').touch()
    return folder

def test_transcribe_one(songs, tmp_path, cli):
    from audioml.midi import read_midi
    res = cli('drums', 'transcribe', songs/'one.wav', '-o', 'out/song.mid')
    assert res.returncode == 0, res.stderr
    notes = read_midi(tmp_path/'out'/'song.mid')
    assert len(notes) and notes.is_drum.all() and (abs(notes.onset.to_numpy()[:, None] - [.5, 1., 1.5, 2.]).min(0) < .05).all()
    again = cli('drums', 'transcribe', songs/'one.wav', '-o', 'out/song.mid')
    assert again.returncode == 0 and again.stdout == res.stdout

def test_transcribe_a_folder_with_bad_files(songs, tmp_path, cli):
    res = cli('drums', 'transcribe', songs, '-o', 'out')
    assert res.returncode == 2 and 'Traceback' not in res.stderr
    assert sorted(p.relative_to(tmp_path/'out').as_posix() for p in (tmp_path/'out').rglob('*.mid')) == ['more/three.mid', 'more/two.mid', 'one.mid']
    assert 'skipped' in res.stderr and 'broken.wav' in res.stderr and 'empty.mp3' in res.stderr and '2 of 5 recordings' in res.stderr

def test_own_midi_file_is_not_overwritten(songs, tmp_path, cli):
    own = (songs/'one.mid'); own.write_bytes(b'mine')
    try:
        res = cli('drums', 'transcribe', songs/'one.wav')
        assert res.returncode == 2 and 'is there already' in res.stderr and own.read_bytes() == b'mine'
    finally: own.unlink()

def test_bad_device_is_one_line(songs, cli):
    res = cli('drums', 'transcribe', songs/'one.wav', '-o', 'out.mid', '--device', 'gramophone')
    assert res.returncode == 2 and res.stderr.count('\n') == 1 and 'device gramophone' in res.stderr

def test_bad_bundle_is_one_line(songs, tmp_path, cli):
    (tmp_path/'model').mkdir(); (tmp_path/'model'/'model.pkl').write_bytes(b'\x80\x04.')
    res = cli('drums', 'transcribe', songs, '-o', 'out', '--bundle', 'model')
    assert res.returncode == 2 and res.stderr.count('\n') == 1 and not list(tmp_path.rglob('*.mid'))
