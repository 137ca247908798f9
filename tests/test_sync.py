"Notebooks are clean, and audioml/ and README.md are what they generate. Everything happens in a copy of the tree."
import os, subprocess, sys
import readme

def contents(folder, pattern):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob(pattern) if p.is_file() and '.ipynb_checkpoints' not in p.parts}

def nbdev(command, tree):
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}  # nbdev_export does nothing under its own test runner
    code = f'import sys; sys.argv = [{command!r}]; from nbdev.{"clean" if "clean" in command else "doclinks"} import {command} as f; f()'
    subprocess.run([sys.executable, '-c', code], cwd=tree, env=env, check=True)

def differing(old, new): return sorted(k for k in {*old, *new} if old.get(k) != new.get(k))

def test_notebooks_are_clean(tree):
    before = contents(tree/'nbs', '*.ipynb')
    nbdev('nbdev_clean', tree)
    assert not differing(before, contents(tree/'nbs', '*.ipynb')), 'run `make export`, which cleans notebooks'

def test_modules_are_in_sync(tree):
    before = contents(tree/'audioml', '*.py')
    for name in before:
        if name != '__init__.py': (tree/'audioml'/name).unlink()  # so that a module whose notebook is gone is noticed
    nbdev('nbdev_export', tree)
    assert not differing(before, contents(tree/'audioml', '*.py')), 'run `make export`'

def test_readme_is_rendered_from_index():
    assert readme.differing(readme.render()) == [], 'run `make readme`'

def test_rendering_notices_a_change(tree):
    files = readme.render(tree/'nbs'/'index.ipynb')
    assert readme.differing(files, tree) == []
    (tree/'README.md').write_text('something else'); (tree/'images'/'index_99_0.png').write_bytes(b'old')
    assert readme.differing(files, tree) == ['README.md', 'images/index_99_0.png']
    readme.write(files, tree)
    assert readme.differing(files, tree) == []

def test_quarto_settings_are_one_file(root):
    assert (root/'nbs'/'_quarto.yml').resolve() == root/'_quarto.yml'

def test_lock_names_no_host(root):
    lines = (root/'requirements.txt').read_text().splitlines()
    assert all('==' in l and '://' not in l and not l.startswith('-') for l in lines)
