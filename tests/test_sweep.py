"Sweeps as their users meet them: killed, stopped, resumed and grown with nothing run twice; refused in a line; compared on a page in a browser."
import contextlib, os, signal, subprocess, sys, time
from pathlib import Path
import pandas as pd, pytest
from PIL import Image
from audioml.cli import main
from audioml.core import BadInput, write_json
from audioml.sweep import *
from runs import AUDIOML, audioml, write_notebook

PARAMETERS = '''run_dir:str = 'runs/toy'  # where everything goes
overwrite:bool = False    # replace a finished run
resume:bool = False       # go on with an unfinished one
lr:float = 0.1            # how fast the loss falls
kind:str = 'short'        # long ones wait for the gate after their first epoch
gate:str = 'gate'         # a file
n_epoch:int = 3           # passes'''
WORK = '''import time
from pathlib import Path
from PIL import Image
from audioml.core import *
from builders import Trace
run = RunFolder(run_dir, dict(lr=lr, kind=kind, n_epoch=n_epoch), overwrite=overwrite, resume=resume)
if lr > 1: raise BadInput(f'lr is {lr}', where='toy', want='1 at most')
leave = lambda what: Trace().leave(f'{run.path.name} {what}', 0)
leave('starts')
rows = run.history.read_text().splitlines() if run.history.exists() else ['epoch,loss']
for epoch in range(len(rows)-1, n_epoch):
    while kind == 'long' and epoch and not Path(gate).exists(): time.sleep(.02)
    leave(epoch)
    rows.append(f'{epoch},{(1-lr)**epoch}'); write_text(run.history, '\\n'.join(rows))
Image.new('RGB', (80, 45), (90, int(250*lr), 90)).save(run.figures/'colour.png')
run.finish(dict(loss=(1-lr)**epoch, n_epoch=n_epoch))'''

@pytest.fixture
def toy(tmp_path, trace, monkeypatch):
    "A folder with a run notebook, whose runs leave a trace."
    monkeypatch.setenv('PYTHONPATH', str(Path(__file__).parent)); monkeypatch.chdir(tmp_path)
    write_notebook(tmp_path/'toy.ipynb', WORK, parameters=PARAMETERS, title='# Toy\n> Falls.')
    yield tmp_path
    for pid in mine(trace): # of a test that failed
        with contextlib.suppress(ProcessLookupError): os.kill(pid, signal.SIGKILL)

def sweep(*args): return audioml('runs', 'sweep', 'toy.ipynb', *args)

@pytest.fixture
def here(toy, monkeypatch, capfd):
    "The command in this process, which spares the time to start one: (exit code, output, error stream)."
    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['audioml', 'runs', 'sweep', 'toy.ipynb', *args])
        with pytest.raises(SystemExit) as e: main()
        return e.value.code, *capfd.readouterr()
    return run


# --- refused before anything starts ---

@pytest.mark.parametrize('args, says', [
    (('-g', 'lr=1e-3,high'), "lr: 'high' is not float"),
    (('-g', 'lr=.1', '-g', 'size=1,2'), "unknown parameter 'size'; known: lr, kind, gate, n_epoch"),
    (('-g', 'n_epoch=1.5,2'), "n_epoch: '1.5' is not int"),
    (('-r', 'lr=1:.1:log'), "lr: '1:.1:log' is no range"),
    (('-r', 'n_epoch=1:many'), "n_epoch: 'many' is not int"),
    (('-g', 'lr=.1', '-p', 'overwrite=true'), 'overwrite is set by the sweep'),
    (('-g', 'lr=.1', '-r', 'lr=.1:.2'), 'lr is there twice'),
    (('-g', 'lr=.1', '-g', 'kind=[a,b'), 'lacks a closing ]'),
    ((), 'nothing to vary'),
    (('--report',), 'holds no sweep'),
])
def test_refused_in_one_line(here, tmp_path, args, says):
    code, out, err = here(*args)
    assert code == 2 and err.count('\n') == 1 and err.startswith('audioml: ') and says in err and not out
    assert [p.name for p in tmp_path.iterdir()] == ['toy.ipynb']

def test_without_ray(here, monkeypatch):
    "A line says which extra is needed; one after the other works without."
    monkeypatch.setitem(sys.modules, 'ray', None)
    assert here('-g', 'lr=.1') == (2, '', "audioml: Ray is not installed; pip install 'audioml[distributed]'\n")
    code, out, err = here('-g', 'lr=.1', '--workers', '0', '-p', 'n_epoch=1')
    assert code == 0 and '[1/1] lr=0.1: done' in out and 'runs/toy_sweep/index.html' in out, err
    code, _, err = here('-g', 'lr=.1,.2', '--workers', '0')
    assert code == 2 and 'runs/toy_sweep: was started with other values of n_epoch' in err
    code, _, err = here('--report', '-m', 'accuracy')
    assert code == 2 and "no run has a metric 'accuracy'; one of loss, n_epoch" in err
    code, out, _ = here('--report', '-m', 'n_epoch')
    assert code == 0 and out.splitlines()[:2] == [' lr    state  n_epoch', '0.1 finished        1']

def test_another_run_in_its_place(toy):
    "What lies in the folder of a run is looked at: its parameters have to be the ones of the plan."
    plan = plan_sweep(toy/'toy.ipynb', ['lr=.1,.2'])
    write_json(toy/'out'/'lr=0.1'/'metrics.json', {})
    with pytest.raises(BadInput, match='lr=0.1: has metrics.json, but not params.json'): open_sweep('out', plan)
    write_json(toy/'out'/'lr=0.1'/'params.json', dict(lr=.3, kind='short'))
    with pytest.raises(BadInput, match='lr=0.1: was run with other values of lr'): open_sweep('out', plan)


# --- killed, stopped, resumed, grown ---

def mine(trace):
    "Processes that a sweep of this test has left running."
    def environ(p):
        try: return p.read_bytes()
        except OSError: return b''
    return [int(p.parent.name) for p in Path('/proc').glob('[0-9]*/environ') if str(trace.path).encode() in environ(p) and int(p.parent.name) != os.getpid()]

def wait_until(true, what, seconds=400):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, what
        time.sleep(.05)

def start(*args):
    return subprocess.Popen([*AUDIOML, 'runs', 'sweep', 'toy.ipynb', *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)

def stop(p, trace, how):
    "End a sweep as a terminal does, or with a kill, and wait until none of its processes is left."
    os.killpg(p.pid, how) if how == signal.SIGINT else p.send_signal(how)
    out = p.communicate(timeout=60)
    wait_until(lambda: not mine(trace), 'a process outlives its sweep')
    return p.returncode, *out

def test_stopped_and_resumed_without_ray(toy, trace, here):
    "Ctrl-C while a run waits in its second epoch: it goes on from there."
    p = start('-g', 'kind=long', '--workers', '0'); wait_until(lambda: p.poll() is not None or (toy/'runs'/'toy_sweep'/'kind=long'/'history.csv').exists(), 'an epoch')
    code, _, wrong = stop(p, trace, signal.SIGINT)
    assert code == 130 and wrong.endswith('audioml: runs/toy_sweep: stopped; the same command goes on from here\n')
    (toy/'gate').touch()
    assert here('-g', 'kind=long', '--workers', '0')[0] == 0
    assert trace.names() == [f'kind=long {what}' for what in ('starts', 0, 'starts', 1, 2)]

@pytest.mark.alone
def test_killed_stopped_resumed_and_grown(toy, trace, browser):
    "Four runs on two workers: two are finished and two underway when they are killed, and once more when they are stopped; nothing is run twice."
    pytest.importorskip('ray')
    out, args = toy/'runs'/'toy_sweep', ('-g', 'kind=short,long', '-p', f'gate={toy}/gate', '--workers', '2')
    done = lambda: sorted(p.parent.name for p in out.glob('*/metrics.json'))
    shorts, longs = ['kind=short,lr=0.1', 'kind=short,lr=0.2'], ['kind=long,lr=0.1', 'kind=long,lr=0.2']
    underway = lambda n: lambda: p.poll() is not None or done() == shorts and all(trace.names().count(f'{run} starts') == n and (out/run/'history.csv').exists() for run in longs)

    p = start(*args, '-g', 'lr=.1,.2'); wait_until(underway(1), 'two runs finish, two are underway')
    assert stop(p, trace, signal.SIGKILL)[0] == -signal.SIGKILL
    assert sorted(trace.names()) == sorted(f'{run} {what}' for run in shorts + longs for what in ('starts', *range(3 if run in shorts else 1)))
    stamps = {run: (out/run/'metrics.json').stat().st_mtime_ns for run in shorts}

    p = start(*args, '-g', 'lr=.1,.2'); wait_until(underway(2), 'two runs are resumed')
    code, said, wrong = stop(p, trace, signal.SIGINT)
    assert code == 130 and wrong.splitlines()[-1] == 'audioml: runs/toy_sweep: stopped; the same command goes on from here' and 'Traceback' not in wrong, wrong
    assert '2 of 4 runs are finished already and kept' in said

    (toy/'gate').touch()
    res = sweep(*args, '-g', 'lr=.1,.2,2')
    assert res.returncode == 2 and res.stderr.splitlines()[-1].startswith('audioml: runs/toy_sweep: 2 of 6 runs failed') and 'Traceback' not in res.stderr, res.stderr
    assert 'kind=short,lr=2.0: failed: toy: lr is 2.0; 1 at most' in res.stdout and '[4/4]' in res.stdout
    assert done() == sorted(shorts + longs) and stamps == {run: (out/run/'metrics.json').stat().st_mtime_ns for run in shorts}
    assert sorted(trace.take()) == sorted([f'{run} {epoch}' for run in shorts + longs for epoch in range(3)] + [f'{run} starts' for run in shorts + 3*longs])
    assert all(pd.read_csv(out/run/'history.csv').epoch.tolist() == [0, 1, 2] and (out/run/'toy.ipynb').exists() for run in shorts + longs)
    table = pd.read_csv(out/'table.csv').set_index('run')
    assert table.state.to_dict() == dict.fromkeys(shorts + longs, 'finished') | {'kind=short,lr=2.0': 'failed', 'kind=long,lr=2.0': 'failed'}
    assert table.loss['kind=long,lr=0.2'] == pytest.approx(.64)

    res = sweep(*args, '-g', 'lr=.1,.2')
    assert res.returncode == 0 and '4 of 4 runs are finished already and kept' in res.stdout and not trace.names()
    with visit(browser, out/'index.html') as page:
        assert page.locator('tbody tr').count() == 6 and page.locator('svg [id*="-run"]').count() == 4 and page.locator('figure img').count() == 4


# --- the page ---

@contextlib.contextmanager
def visit(browser, path, size=(1200, 900), **options):
    "A page that was opened; it has asked for nothing else, complained about nothing, and nothing sticks out."
    context, wrong, asked = browser.new_context(viewport=dict(width=size[0], height=size[1]), **options), [], []
    page = context.new_page()
    page.on('console', lambda m: wrong.append(m.text)); page.on('pageerror', lambda e: wrong.append(str(e))); page.on('dialog', lambda d: wrong.append(d.message))
    page.on('request', lambda r: asked.append(r.url))
    page.goto(f'file://{path}')
    yield page
    assert not wrong and [u for u in asked if not u.startswith('data:')] == [f'file://{path}'.replace(' ', '%20')], (wrong, asked)
    assert page.evaluate('document.documentElement.scrollWidth <= innerWidth')
    if folder := os.environ.get('APP_PICTURES'): page.screenshot(path=f'{folder}/sweep_{size[0]}_{options.get("color_scheme", "light")}.png', full_page=True)
    context.close()

EVIL = '<img src=x onerror=alert(1)>'

@pytest.fixture(scope='module')
def page_of_runs(tmp_path_factory):
    "The report of a sweep of five runs: three finished, one failed, one not begun; names and reasons are not friendly."
    out, runs = tmp_path_factory.mktemp('sweep'), {}
    for i, (lr, style) in enumerate([(.1, 'rock'), (.02, 'jazz'), (.3, EVIL), (.4, 'a "b" \'c\''), (.5, 'rock')]):
        values = dict(lr=lr, style=style); name = run_name(values); runs[name] = values
        if i > 2: continue
        write_json(out/name/'metrics.json', dict(loss=[.5, .25, 10.][i], n=i, note=EVIL, by=dict(drum=dict(kick=.5+i)), missing=None, good=True))
        (out/name/'history.csv').write_text('epoch,loss,time\n0,.9,00:01\n1,' + ['.5', '.25', 'nan'][i] + ',00:01\n')
        for figure in ('curve', 'a "b" <i>'): (out/name/'figures').mkdir(exist_ok=True); Image.new('RGB', (300, 200), (200, 80*i, 90)).save(out/name/'figures'/f'{figure}.png')
    names = list(runs)
    (out/names[1]/'history.csv').write_bytes(b'epoch,loss\n0,1,2,3\n\xff')
    write_json(out/'sweep.json', dict(notebook='70_drums_train', fixed=dict(data_dir=EVIL), runs=runs, failed={names[3]: f'<script>alert(2)</script> {EVIL}'}))
    return write_report(out)[1], names

@pytest.mark.parametrize('options', [dict(), dict(color_scheme='dark'), dict(size=(375, 740), color_scheme='dark')], ids=['desk', 'dark', 'phone'])
def test_the_page(browser, page_of_runs, options):
    path, names = page_of_runs
    with visit(browser, path, **options) as page:
        runs = lambda: page.locator('tbody tr td:first-child').all_inner_texts()
        assert runs() == names and '3 of 5 runs finished' in page.inner_text('body') and EVIL in page.inner_text('body')
        assert 'history.csv: is no table' in page.inner_text('body')
        page.get_by_role('button', name='loss', exact=True).click()
        assert runs() == [names[i] for i in (1, 0, 2, 3, 4)]  # numbers in their order, runs without one last
        page.get_by_role('button', name='loss', exact=True).click()
        assert runs() == [names[i] for i in (2, 0, 1, 3, 4)] and page.locator('th[aria-sort=descending]').inner_text().startswith('loss')
        assert page.locator('svg').count() == 1 and page.locator('svg [id*="-run"]').count() == 2
        assert page.locator('figure').count() == 6 and all(page.locator('figure img').evaluate_all('all => all.map(i => i.naturalWidth == 300)'))
        page.locator('tbody button').nth(1).click()
        assert page.locator('figure:visible').count() == 2 and page.locator('svg .dim').count() == 1 and page.locator('svg .lit').count() == 1
        page.locator('tbody button').nth(1).click()
        assert page.locator('figure:visible').count() == 6
        ink = page.locator('svg text').first.evaluate('e => getComputedStyle(e).fill')
        assert (int(ink[4:].split(',')[0]) > 128) == (options.get('color_scheme') == 'dark')

def test_the_same_results_make_the_same_page(page_of_runs):
    path, _ = page_of_runs
    before = path.read_bytes(), (path.parent/'table.csv').read_bytes()
    write_report(path.parent)
    assert (path.read_bytes(), (path.parent/'table.csv').read_bytes()) == before
