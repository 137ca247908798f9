"""A run that is killed again and again ends like one that was left alone.

Training happens in processes of their own, which are killed with SIGKILL: no handler, no `finally`, no flush. They are forked from a server
that has imported torch once, so each start costs milliseconds.
"""
import hashlib, multiprocessing, os, random, signal, time
from pathlib import Path
import numpy as np
import pytest

ROUNDS = 10  # kills of one run

class Waves:
    "Noisy sine waves; the task is their frequency. Every item is a function of (epoch, index)."
    def __init__(self, n): self.n = n
    def __len__(self): return self.n
    def __getitem__(self, item):
        import torch
        from audioml.core import derive_rng
        rng = derive_rng('waves', *item)
        f = rng.uniform(1, 8)
        x = np.sin(2*np.pi*f*np.arange(64)/64) + 0.1*rng.standard_normal(64)
        return torch.tensor(x, dtype=torch.float32), torch.tensor([f/8], dtype=torch.float32)

def build(num_workers):
    "A learner with what makes resuming hard: dropout, batch norm, and metrics."
    import torch
    from torch import nn
    from audioml.training.learner import make_dls, make_learner
    torch.set_num_threads(1); torch.manual_seed(0)
    multiprocessing.set_start_method('fork', force=True)  # of the loader's workers
    model = nn.Sequential(nn.Unflatten(1, (1, 64)), nn.Conv1d(1, 8, 9), nn.BatchNorm1d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(.2), nn.Linear(8*56, 1))
    def mean_error(pred, targ): return (pred - targ).abs().mean()
    return make_learner(make_dls(Waves(88), Waves(16), bs=8, num_workers=num_workers, device='cpu'), model, nn.functional.mse_loss, metrics=mean_error)

def train(folder, num_workers=0, slow=0.):
    "Train in `folder`, from its newest checkpoint when there is one, and leave a digest of all that the run has made."
    os.environ['AUDIOML_PROGRESS'] = 'off'
    from fastai.callback.core import Callback
    from audioml.core import RunFolder, write_json
    from audioml.training.learner import TrainConfig, fit
    cfg = TrainConfig(epochs=8, lr=1e-2, ema=.9, accumulation=2, metric='mean_error', patience=20, checkpoint_iterations=4, freeze=(('1.', 1),))
    learn, run = build(num_workers), RunFolder(folder, cfg.to_dict(), resume=True)
    history = fit(learn, cfg, run, resume=True, cbs=[Callback(after_batch=lambda self: time.sleep(slow))])
    digest = hashlib.sha256()
    for name, t in sorted(learn.model.state_dict().items()): digest.update(name.encode() + t.contiguous().numpy().tobytes())
    best = sorted(p.name for p in run.checkpoints.glob('best*'))
    write_json(Path(folder)/'digest.json', dict(weights=digest.hexdigest(), history=run.history.read_text(), best=best[-1:], rows=len(history),
               losses=[float(x) for x in learn.recorder.losses], lrs=[float(x) for x in learn.recorder.lrs]))

@pytest.fixture(scope='module')
def server():
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['audioml.training.learner'])
    return context

def to_the_end(server, folder, **kwargs):
    "Train until done; return the digest."
    p = server.Process(target=train, args=(str(folder),), kwargs=kwargs); p.start(); p.join(120)
    assert p.exitcode == 0
    return (Path(folder)/'digest.json').read_text()

@pytest.fixture(scope='module')
def undisturbed(server, tmp_path_factory): return to_the_end(server, tmp_path_factory.mktemp('runs')/'whole')

def kill_often(server, folder, rounds, seed, **kwargs):
    "Start the run `rounds` times and kill it each time after it has gone some way; return how many were killed while they trained."
    rng, killed = random.Random(seed), 0
    def seen():
        try: return sorted(name for name in os.listdir(folder/'checkpoints') if not name.startswith('.'))
        except FileNotFoundError: return []  # not made yet, or being emptied this moment
    for _ in range(rounds):
        before = seen()
        p = server.Process(target=train, args=(str(folder),), kwargs=kwargs); p.start()
        deadline = time.monotonic() + 60
        while seen() == before and p.is_alive() and time.monotonic() < deadline: time.sleep(.002)  # it trains now
        time.sleep(rng.uniform(0, .15))
        killed += p.is_alive()
        if p.is_alive(): os.kill(p.pid, signal.SIGKILL)
        p.join()
    return killed

def test_killed_at_ten_random_moments(server, undisturbed, tmp_path):
    folder = tmp_path/'killed'
    assert kill_often(server, folder, ROUNDS, seed=0, slow=.01) == ROUNDS
    assert not (folder/'digest.json').exists()
    assert to_the_end(server, folder) == undisturbed

def test_killed_with_workers(server, undisturbed, tmp_path):
    folder = tmp_path/'workers'
    assert kill_often(server, folder, 1, seed=1, num_workers=2, slow=.01) == 1
    assert to_the_end(server, folder, num_workers=2) == undisturbed

def test_killed_before_the_first_checkpoint(server, undisturbed, tmp_path):
    folder = tmp_path/'early'
    p = server.Process(target=train, args=(str(folder),), kwargs=dict(slow=5.)); p.start()
    while not (folder/'params.json').exists(): time.sleep(.002)
    p.kill(); p.join()
    assert to_the_end(server, folder) == undisturbed

def test_a_finished_fit_resumes_to_itself(server, undisturbed, tmp_path):
    folder = tmp_path/'twice'
    assert to_the_end(server, folder) == undisturbed
    (folder/'digest.json').unlink()
    assert to_the_end(server, folder) == undisturbed
