"What tests of runs share: the command, run notebooks that are executed, read, or killed in training, and notebooks made for a test."
import json, os, signal, subprocess, sys, time
from pathlib import Path

RUNS = Path(__file__).parent.parent/'nbs'/'runs'
AUDIOML = [sys.executable, '-c', 'from audioml.cli import main; main()']
PLAIN = """import json, sys
given, ns = json.loads(sys.argv[2]), dict(display=print)
for cell in json.load(open(sys.argv[1]))['cells']:
    if cell['cell_type'] == 'code': exec(''.join(cell['source']), ns)
    if 'parameters' in cell['metadata'].get('tags', []): ns.update(given)
"""  # the cells of a notebook in a process of their own, which can be killed

def audioml(*args, **options): return subprocess.run([*AUDIOML, *map(str, args)], capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)
def start(name, params, **options): return audioml('runs', 'start', name, *(w for k, v in params.items() for w in ('-p', f'{k}={v}')), **options)
def printed(notebook): return ''.join(''.join(o.get('text', '')) for c in json.loads(notebook.read_text())['cells'] for o in c.get('outputs', []))
def metrics_of(run): return json.loads((run/'metrics.json').read_text())

def execute(name, out, params):
    "A run notebook as papermill executes it; paths may be paths."
    import papermill
    papermill.execute_notebook(RUNS/f'{name}.ipynb', out, {k: str(v) if isinstance(v, Path) else v for k, v in params.items()}, progress_bar=False)

def kill_in_training(name, params):
    "Start a run and kill it after its first checkpoint."
    env = dict(os.environ, MPLBACKEND='Agg', AUDIOML_PROGRESS='off')
    said = Path(params['run_dir']).with_name('killed.log')
    with open(said, 'w') as f: p = subprocess.Popen([sys.executable, '-c', PLAIN, str(RUNS/f'{name}.ipynb'), json.dumps(params, default=str)], env=env, stdout=f, stderr=f)
    checkpoints, deadline = Path(params['run_dir'])/'checkpoints', time.monotonic() + 600
    def trained(): return checkpoints.is_dir() and any(not f.name.startswith('.') for f in checkpoints.iterdir())
    try:
        while p.poll() is None and not trained() and time.monotonic() < deadline: time.sleep(.005)
        assert p.poll() is None and trained(), said.read_text()[-3000:]
    finally: p.send_signal(signal.SIGKILL); p.wait()

def write_notebook(path, *codes, parameters="n:int = 1 # how many\nrun_dir:str = 'runs/toy'", title=None):
    "A run notebook of a cell of parameters and others."
    def cell(kind, source, **more): return dict(cell_type=kind, id=str(abs(hash(source)))[:8], metadata={}, source=source) | more
    def code(source, **metadata): return cell('code', source, metadata=metadata, outputs=[], execution_count=None)
    cells = [*([cell('markdown', title)] if title else []), code(parameters, tags=['parameters']), *map(code, codes)]
    path.write_text(json.dumps(dict(nbformat=4, nbformat_minor=5, cells=cells, metadata=dict(kernelspec=dict(name='python3', language='python', display_name='python3')))))
    return path
