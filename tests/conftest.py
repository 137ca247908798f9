"What the tests share: the repository, a copy of it that may be written to, and the folder of real recordings."
import os, shutil, sys
from pathlib import Path
import pytest

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

@pytest.fixture(scope='session')
def data_dir():
    "The folder of real recordings; a test that asks for it is skipped where there is none."
    if not os.environ.get('AUDIOML_DATA'): pytest.skip('AUDIOML_DATA is not set: no real recordings')
    return Path(os.environ['AUDIOML_DATA'])
