"The launcher and the tutorials: `make lab` opens the launcher, its links lead somewhere, and whichever system one picks there works."
import json, os, re, secrets, shutil, signal, subprocess, sys, time, urllib.error, urllib.request
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]
NBS, LAB = ROOT/'nbs', ROOT/'nbs'/'lab.ipynb'
TUTORIALS = sorted((NBS/'tutorials').glob('*.ipynb'))

def cells(path, kind): return [''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type'] == kind]
def links(path): return [l for text in cells(path, 'markdown') for l in re.findall(r'\]\(([^)\s#]+)', text) if not re.match(r'\w+:', l)]

def test_links_lead_somewhere():
    pages = [LAB, *TUTORIALS]
    assert [f'{p.name}: {l}' for p in pages for l in links(p) if not (p.parent/l).is_file()] == []
    assert all(links(p) for p in pages)

def test_the_launcher_leads_to_every_tutorial():
    assert {f'tutorials/{p.name}' for p in TUTORIALS} <= set(links(LAB))

def test_tutorials_export_nothing_and_stay_small():
    for p in [LAB, *TUTORIALS]:
        assert not any('default_exp' in c or '#| export' in c for c in cells(p, 'code')) and p.stat().st_size < 700_000, p.name

def test_each_system_of_the_launcher_works(monkeypatch):
    monkeypatch.setenv('MPLBACKEND', 'agg')
    code, scope, shown = cells(LAB, 'code'), {}, []
    for c in code[:next(i for i, c in enumerate(code) if c.startswith('systems = '))]: exec(c, scope)
    scope['display'] = shown.append
    menu = re.findall(r"^\| `'(\w+)'` \|", '\n'.join(cells(LAB, 'markdown')), re.M)
    assert len(menu) == 5
    for name in menu:
        found = scope[name]()
        assert len(getattr(found, 'samples', found)) and len(shown) >= 1, name
        shown.clear()

@pytest.fixture
def lab(tmp_path):
    "JupyterLab as `make lab` starts it, without a browser: its address, and its token."
    if shutil.which('jupyter-lab', path=Path(sys.executable).parent) is None: pytest.skip('JupyterLab is not installed')
    recipe = subprocess.run(['make', '-n', 'lab'], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    command, token = re.search(r'^jupyter lab .*$', recipe, re.M)[0].split(), secrets.token_hex(16)
    more = ['--no-browser', '--allow-root', '--ip=127.0.0.1', '--port=0', f'--IdentityProvider.token={token}']
    env = dict(os.environ, PATH=f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}', JUPYTER_RUNTIME_DIR=str(tmp_path), JUPYTERLAB_WORKSPACES_DIR=str(tmp_path))
    with open(tmp_path/'log', 'w') as log: p = subprocess.Popen([*command, *more], cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(240):
            found = re.search(r'(http://127\.0\.0\.1:\d+/lab\S*?)\?token', (tmp_path/'log').read_text())
            if found and answers(found[1], token): break
            assert p.poll() is None, (tmp_path/'log').read_text()
            time.sleep(.5)
        yield found[1], token
    finally: os.killpg(p.pid, signal.SIGKILL); p.wait()

def get(url, token): return urllib.request.urlopen(urllib.request.Request(url, headers=dict(Authorization=f'token {token}')), timeout=120)

def answers(url, token):
    try: return get(url, token).status == 200
    except urllib.error.URLError: return False

def test_make_lab_opens_the_launcher(lab):
    address, token = lab
    assert address.endswith('/lab/tree/lab.ipynb')
    server = address.partition('/lab/')[0]
    for path in ['lab.ipynb', *links(LAB)]:
        assert json.load(get(f'{server}/api/contents/{path}?content=0', token))['type'] == 'notebook'
