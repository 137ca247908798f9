"What the tests share: the repository, a copy of it that may be written to, and the folder of real recordings."
import os, shutil, sys
from pathlib import Path
import pytest
from runs import audioml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'tools'))

@pytest.fixture(scope='session')
def root(): return ROOT

@pytest.fixture(scope='session')
def copy_tree():
    "A function that copies what the package is made from: the user's files are never written to by a test."
    def copy(to):
        to.mkdir(parents=True)
        junk = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', '*.egg-info')
        for name in ('audioml', 'nbs', 'images'): shutil.copytree(ROOT/name, to/name, symlinks=True, ignore=junk)
        for p in ROOT.iterdir():
            if p.is_file(): shutil.copy(p, to)
        return to
    return copy

@pytest.fixture
def tree(copy_tree, tmp_path): return copy_tree(tmp_path/'tree')

@pytest.fixture
def trace(tmp_path, monkeypatch):
    "Where builders of this test leave the names of what they make."
    from builders import Trace
    monkeypatch.setenv('BUILD_TRACE', str(tmp_path/'trace'))
    return Trace()

@pytest.fixture(scope='session')
def data_dir():
    "The folder of real recordings; a test that asks for it is skipped where there is none."
    if not os.environ.get('AUDIOML_DATA'): pytest.skip('AUDIOML_DATA is not set: no real recordings')
    return Path(os.environ['AUDIOML_DATA'])

CHROMIUM = next((p for p in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')) if p), None)
FLAGS = '--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'.split()

@pytest.fixture(scope='module')
def browser():
    "A Chromium without a window. It ends with the module: papermill cannot run beside its event loop."
    sync_api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed: no browser to drive')
    if CHROMIUM is None: pytest.skip('there is no Chromium: nothing is tried in a browser')
    with sync_api.sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield b
        b.close()

@pytest.fixture
def shell_of(tmp_path):
    "Words of a command -> a function that runs it as a process of its own, with a bundle when there is one."
    def make(*words, bundle=None):
        more = ('--bundle', str(bundle)) if bundle else ()
        return lambda *args: audioml(*words, *args, *more, cwd=tmp_path)
    return make

@pytest.fixture
def cli_of(tmp_path, monkeypatch, capsys):
    "The same in this process, which spares the time to import PyTorch: what it makes returns (exit code, output, error stream)."
    from audioml.cli import main
    monkeypatch.chdir(tmp_path)
    def make(*words, bundle):
        def run(*args):
            if '--bundle' not in args and '--help' not in args: args = (*args, '--bundle', bundle)
            monkeypatch.setattr(sys, 'argv', ['audioml', *words, *map(str, args)])
            code = 0
            try: main()
            except SystemExit as e: code = e.code or 0
            return code, *capsys.readouterr()
        return run
    return make
