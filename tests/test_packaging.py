"The wheel, built by way of the source distribution from a copy of the tree, and used outside the repository."
import subprocess, sys, zipfile
import pytest

@pytest.fixture(scope='module')
def wheel(copy_tree, tmp_path_factory):
    tmp = tmp_path_factory.mktemp('wheel')
    res = subprocess.run([sys.executable, '-m', 'build', '--no-isolation', '--skip-dependency-check', '--outdir', tmp/'dist', copy_tree(tmp/'tree')],
                         capture_output=True, text=True)
    assert res.returncode == 0, res.stdout[-3000:] + res.stderr[-3000:]
    return next((tmp/'dist').glob('*.whl'))

@pytest.fixture(scope='module')
def outside(wheel, tmp_path_factory):
    "Runs Python code with the unpacked wheel, in an empty folder, with the repository out of reach."
    site, cwd = tmp_path_factory.mktemp('site'), tmp_path_factory.mktemp('elsewhere')
    with zipfile.ZipFile(wheel) as z: z.extractall(site)
    def run(code, *args):
        start = f'import sys; sys.path.insert(0, {str(site)!r}); import audioml; assert audioml.__file__.startswith({str(site)!r}), audioml.__file__\n'
        return subprocess.run([sys.executable, '-I', '-c', start + code, *args], cwd=cwd, capture_output=True, text=True)
    return run

def files_under(folder, skip=('__pycache__', '.ipynb_checkpoints')):
    return {p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file() and not {*skip} & {*p.parts} and p.suffix != '.pyc'}

def test_wheel_holds_modules_runs_and_bundles(wheel, root):
    with zipfile.ZipFile(wheel) as z: names = {n.removeprefix('audioml/') for n in z.namelist() if n.startswith('audioml/')}
    runs = {f'runs/{p.name}' for p in (root/'nbs'/'runs').glob('*.ipynb')}
    assert names == files_under(root/'audioml') | runs

def test_wheel_says_what_it_needs(wheel):
    with zipfile.ZipFile(wheel) as z:
        info = {n.rpartition('/')[2]: z.read(n).decode() for n in z.namelist() if '.dist-info/' in n}
    assert 'audioml = audioml.cli:main' in info['entry_points.txt']
    assert 'Requires-Dist: torch==2.11.*' in info['METADATA'] and 'Apache License' in info['LICENSE']

def test_every_module_imports_outside_the_repository(outside):
    code = '''
import importlib, pkgutil
names = [m.name for m in pkgutil.walk_packages(audioml.__path__, 'audioml.')]
for name in names: importlib.import_module(name)
print(len(names))
'''
    res = outside(code)
    assert res.returncode == 0, res.stderr
    assert int(res.stdout) > 5

def test_command_works_outside_the_repository(outside, root):
    main = 'from audioml.cli import main; main()'
    res = outside(main, 'runs', 'list')
    assert res.returncode == 0, res.stderr
    assert {l.split()[0] for l in res.stdout.splitlines() if l} == {p.stem for p in (root/'nbs'/'runs').glob('*.ipynb')}
    assert outside(main, 'version').stdout.startswith('audioml ')
