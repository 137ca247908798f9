"""Several processes train as one: the same losses, weights and metrics, whoever goes on with whose run.

Processes on this computer meet through gloo; they are forked, except where the command line starts them.
"""
import json, os, signal, subprocess, time
from pathlib import Path
import numpy as np, pytest, torch
from fastai.callback.core import Callback
from fastai.metrics import Metric
from torch import nn
from audioml.core import BadInput, RunFolder, derive_rng
from audioml.losses import IGNORE, concordance_loss, token_loss
from audioml.training.learner import TrainConfig, fit, make_dls, make_learner
from audioml.training.processes import in_processes, is_first, rank_and_size
from runs import AUDIOML, write_notebook

@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    "No progress, and no threads: a forked process has none."
    monkeypatch.setenv('AUDIOML_PROGRESS', 'off'); torch.set_num_threads(1)

class EveryLoss(Callback):
    "Every loss of training, and a stop by force after batch `at`."
    def __init__(self, at=None): self.at, self.seen = at, []
    def after_batch(self):
        if not self.training: return
        self.seen.append(self.loss.item())
        if self.train_iter == self.at: raise KeyboardInterrupt

def train(make, bs, recipe, folder=None, at=None, cbs=()):
    "All losses, the weights and the history of a training, from its newest checkpoint on."
    learn, losses = make(bs), EveryLoss(at)
    run = RunFolder(folder, resume=True) if folder else None
    try: history = fit(learn, recipe, run, resume=True, cbs=[losses, *cbs])
    except KeyboardInterrupt: history = None
    return losses.seen, {k: v.clone() for k, v in learn.model.state_dict().items()}, history

def apart(a, b): return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)

# systems: windows of sound with batch norm, and tokens

@pytest.fixture(scope='module')
def drums(tmp_path_factory):
    from audioml.audio import LogMelConfig
    from audioml.drums.data import Embedded, drum_store
    from audioml.drums.learner import drum_learner
    from audioml.drums.model import PRESETS, DrumModelConfig
    from audioml.drums.synth import SynthConfig
    from audioml.windowing import SlidingWindowConfig
    synth = SynthConfig(seed=1, duration=2.5)
    store = drum_store(tmp_path_factory.mktemp('drums')/'store', [(f's{i}', Embedded(i, synth), 'train' if i < 5 else 'valid') for i in range(6)], LogMelConfig())
    windows, model = SlidingWindowConfig(window_length_seconds=1.2, windows_per_song=3), DrumModelConfig(n_classes=5, encoder=PRESETS['tiny'].replace(dropout=0.))
    return lambda bs: drum_learner(store, windows, model, bs=bs)

@pytest.fixture(scope='module')
def groove(tmp_path_factory):
    from audioml.groove.data import embedded_songs, groove_store, styles_of
    from audioml.groove.learner import groove_learner
    from audioml.groove.model import model_config
    from audioml.groove.tokenizer import GrooveTokenizer, GrooveTokenizerConfig
    store = groove_store(tmp_path_factory.mktemp('groove')/'store', [s for split in ('train', 'valid') for s in embedded_songs(8, n_bars=4, split=split, styles=('funk', 'rock'))], GrooveTokenizer(GrooveTokenizerConfig()))
    model = model_config(styles_of(store), 'tiny', dropout=0., n_layers=2)
    return lambda bs: groove_learner(store, model, bs=bs, row_length=128)

@pytest.mark.parametrize('system, epochs', [('drums', 3), ('groove', 4)])
def test_two_processes_equal_one_with_the_doubled_batch(system, epochs, request):
    make, recipe = request.getfixturevalue(system), TrainConfig(epochs=epochs, lr=2e-3, metric='train_loss')
    one, weights, history = train(make, 4, recipe)
    (two, w, rows), (other, w2, rows2) = in_processes(lambda: train(make, 2, recipe))
    assert len(one) >= 20 and one[19] < one[0]
    assert len(make(4).dls.train.dataset) % 4 # a last batch that is smaller
    assert np.abs(np.array(one) - two)[:20].max() < 1e-5
    assert apart(w, weights) < 1e-4 and apart(w, w2) == 0 and two == other
    np.testing.assert_allclose(rows.to_numpy(float), history.to_numpy(float), atol=1e-5); assert rows.equals(rows2)

FULL = TrainConfig(epochs=2, lr=2e-3, metric='train_loss', accumulation=2, ema=.9, clip=.05, checkpoint_iterations=2, restore_best=True)

@pytest.fixture(scope='module')
def uninterrupted(drums): return train(drums, 4, FULL)

@pytest.mark.parametrize('first, then', [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_processes(drums, uninterrupted, tmp_path, first, then):
    go = lambda n, at=None: train(drums, 4, FULL, tmp_path, at) if n == 1 else in_processes(lambda: train(drums, 4//n, FULL, tmp_path, at), n)[0]
    whole, weights, history = uninterrupted
    go(first, at=7)
    losses, w, rows = go(then)
    assert len(losses) == len(whole) - 6 and apart(w, weights) < 1e-4
    np.testing.assert_allclose(rows.to_numpy(float), history.to_numpy(float), atol=1e-5)
    assert len(list(tmp_path.glob('checkpoints/epoch_*'))) == 2 and len((tmp_path/'history.csv').read_text().splitlines()) == 3

# a codec: code vectors that are moved and counted, and judges that are trained beside it

class Books(Callback):
    "What the code vectors add up to after every batch."
    order = 1000
    def __init__(self): self.seen = []
    def after_batch(self):
        if self.training: self.seen.append([q.codebook.weight.double().sum().item() for q in self.model.codec.net.quantizer.quantizers])

@pytest.fixture(scope='module')
def codec(tmp_path_factory):
    """(batch size, seed of the judges) -> all that comes of training a codec, half of it unrounded, the rest with judges. It has no noise, for every process would draw its own;
    and its loss is that of samples: the logarithms of nearly silent bands make ten times as much of a rounding error in every step."""
    from audioml.codec.discriminators import Discriminators, MultiPeriodDiscriminator, MultiResolutionDiscriminator
    from audioml.codec.learner import Adversary, snac_learner, snac_recipe, sound_store
    from audioml.codec.model import CODEC_PRESETS
    from audioml.codec.synth import synth_sounds
    sounds = synth_sounds(7, seed=0, seconds=(.3, .5))
    store = sound_store(tmp_path_factory.mktemp('codec')/'sounds', sounds, split={name: 'valid' for name, _ in sounds[:1]}, progress=False)
    cfg = CODEC_PRESETS['small'].replace(encoder_dim=2, decoder_dim=32, codebook_size=16, noise=False)
    def go(bs, seed):
        learns, books = [], Books()
        def make(bs): return learns.append(snac_learner(store, cfg, seconds=.1, bs=bs, weights=dict(stft=0., mel=0.), device='cpu')) or learns[0]
        torch.manual_seed(seed)
        judges = Discriminators(MultiPeriodDiscriminator((2,), (4, 4)), MultiResolutionDiscriminator(((256, 128),), (4, 4)))
        losses, weights, _ = train(make, bs, snac_recipe(2, lr=2e-3, metric='train_loss'), cbs=[Adversary(judges, lr=1e-3, start=1), books])
        return losses, weights, judges.state_dict(), books.seen
    return go

def test_a_codec_its_code_vectors_and_its_judges(codec):
    one, weights, judges, _ = codec(6, 0)
    (two, w, j, books), (_, _, other, books2) = in_processes(lambda: codec(3, rank_and_size()[0]))
    assert len(one) >= 12 and np.abs(np.array(one) - two).max() < 1e-5
    assert apart(w, weights) < 1e-4 and apart(j, judges) < 1e-5 and apart(j, other) == 0
    assert books == books2 and len({b[0] for b in books}) > 5 # the same after every batch; and they move

# small things that are hard

class Waves:
    "Noisy sines; some items are short, and padded with NaN-free zeros. Tokens are their rounded values."
    def __init__(self, n, seed=0): self.n, self.seed = n, seed
    def __len__(self): return self.n
    def __getitem__(self, item):
        rng = derive_rng(self.seed, *item)
        n = int(rng.integers(3, 25))
        ids = rng.integers(1, 9, n + 1)
        pad = lambda x, fill: torch.from_numpy(np.pad(x, (0, 25-n), constant_values=fill))
        return pad(ids[:-1], 0), pad(ids[1:], IGNORE)

def trimmed(items):
    x, y = (torch.stack(t) for t in zip(*items))
    n = int((x != 0).sum(1).max())
    return x[:, :n], y[:, :n]

class MeanLength(Metric):
    "A metric that asks for the inputs."
    def reset(self): self.seen = []
    def accumulate(self, learn): self.seen += [(int(n), float(p.sum())) for n, p in zip((learn.xb[0] != 0).sum(1), learn.pred.softmax(-1)[..., 0]*(learn.xb[0] != 0))]
    @property
    def value(self): return sum(n*p for n, p in self.seen)/len(self.seen)
    @property
    def name(self): return 'mean_length'

def speller(bs, dropout=0., collate=trimmed, model=None):
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Embedding(9, 16), nn.Dropout(dropout), nn.Linear(16, 9))
    return make_learner(make_dls(Waves(17), Waves(5, 1), bs=bs, device='cpu', collate=collate), model, token_loss, metrics=[MeanLength()])

SHORT = TrainConfig(epochs=3, lr=1e-2, checkpoint_iterations=1)

@pytest.mark.parametrize('n', [2, 3])
def test_rows_of_different_lengths_and_processes_with_nothing_to_do(n):
    one, weights, history = train(speller, 6, SHORT)
    for losses, w, rows in in_processes(lambda: train(speller, 6//n, SHORT), n):
        np.testing.assert_allclose(losses, one, atol=1e-6); assert apart(w, weights) < 1e-5
        np.testing.assert_allclose(rows.to_numpy(float), history.to_numpy(float), atol=1e-5)

def test_with_dropout_as_many_processes_resume_bit_for_bit(tmp_path):
    make = lambda bs: speller(bs, dropout=.3)
    whole = in_processes(lambda: train(make, 4, SHORT))
    in_processes(lambda: train(make, 4, SHORT, tmp_path, at=4))
    for (_, w, rows), (_, weights, history) in zip(in_processes(lambda: train(make, 4, SHORT, tmp_path)), whole):
        assert apart(w, weights) == 0 and rows.equals(history)

def test_processes_draw_dropout_of_their_own():
    def draws():
        seen = []
        class Drops(nn.Dropout):
            def forward(self, x): y = super().forward(x); seen.append((y == 0).float().mean().item()); return y
        train(lambda bs: speller(bs, model=nn.Sequential(nn.Embedding(9, 16), Drops(.5), nn.Linear(16, 9))), 4, SHORT)
        return seen
    a, b = in_processes(draws)
    assert a != b

class Correlation(nn.Module):
    "A loss that compares the items of a batch, and has a parameter."
    def __init__(self): super().__init__(); self.log_weight = nn.Parameter(torch.zeros(()))
    def forward(self, p, y): return concordance_loss(p, y)*self.log_weight.exp() - self.log_weight

def rater(bs):
    torch.manual_seed(0)
    items = [(x := torch.randn(6), torch.stack([x.sum(), x[0]*x[1]])) for _ in range(22)]
    learn = make_learner(make_dls(items, items[:5], bs=bs, device='cpu'), nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2)), Correlation())
    learn.splitter = lambda m: [list(m.parameters()), list(learn.loss_func.parameters())]
    return learn

def test_a_loss_that_compares_items_and_has_parameters():
    def go(bs):
        learns = []
        losses, w, _ = train(lambda bs: learns.append(rater(bs)) or learns[0], bs, SHORT)
        return losses, w | learns[0].loss_func.state_dict()
    one, weights = go(8)
    for losses, w in in_processes(lambda: go(4)): np.testing.assert_allclose(losses, one, atol=1e-5); assert apart(w, weights) < 1e-4
    assert abs(float(weights['log_weight'])) > 1e-3

def test_batches_of_all_together(monkeypatch):
    monkeypatch.setenv('AUDIOML_SPLIT_BATCHES', '1')
    one, weights, _ = train(speller, 4, SHORT)
    for losses, w, _ in in_processes(lambda: train(speller, 4, SHORT)): np.testing.assert_allclose(losses, one, atol=1e-6); assert apart(w, weights) < 1e-5

def test_only_the_first_writes_and_speaks(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv('AUDIOML_PROGRESS', 'log')
    in_processes(lambda: train(speller, 4, SHORT, tmp_path/('first' if is_first() else 'second')))
    assert capfd.readouterr().out.count('epoch 3/3') == 1
    assert (tmp_path/'first'/'history.csv').exists() and not (tmp_path/'second'/'history.csv').exists() and not list(tmp_path.glob('second/checkpoints/*'))

def pairs(items): x, y = trimmed(items); return torch.cat([x, x]), torch.cat([y, y])

def test_what_cannot_be_shared_is_said():
    with pytest.raises(BadInput, match='a batch of 4 items has a tensor of shape .8, .* a row for each item'): in_processes(lambda: train(lambda bs: speller(bs, collate=pairs), 4, SHORT))
    def own_loader(bs):
        learn = speller(bs); learn.dls.loaders[1] = torch.utils.data.DataLoader(Waves(4), batch_size=2)
        return learn
    with pytest.raises(BadInput, match='cannot be shared'): in_processes(lambda: train(own_loader, 4, SHORT))

def test_alone_nothing_changes():
    from audioml.training.processes import together
    learn = speller(4)
    with together(learn) as cbs: assert cbs == [] and learn.dls.train.batch_sampler.share == (0, 1) and 'forward' not in vars(learn.model)

# the command line

PARAMETERS = """bs:int = 4
n_epoch:int = 6
pause:float = 0.
run_dir:str = 'runs/toy'
resume:bool = False
overwrite:bool = False"""
CELLS = ["""import os, time, torch
from fastai.callback.core import Callback
from audioml.core import *
from audioml.training.learner import *
from audioml.training.processes import *
from test_distributed import speller
run = RunFolder(run_dir, dict(bs=bs, n_epoch=n_epoch), overwrite=overwrite, resume=resume)
if (run.path/'data').exists() and not resume: raise BadInput('was made by another process', where='data')
(run.path/'data').touch()""", """if bs > 99: raise BadInput(f'bs {bs} is too large', where='toy')
recipe = TrainConfig(epochs=n_epoch, lr=1e-2, checkpoint_iterations=1)
learn = speller(bs)
history = fit(learn, recipe, run, resume=resume, cbs=[Callback(after_batch=lambda self: time.sleep(pause))])""",
"""torch.save(learn.model.state_dict(), run.path/f'weights_{os.getpid()}.pt')
run.finish(dict(processes=rank_and_size()[1], epochs=len(history)))
print('reported')"""]

@pytest.fixture
def toy(tmp_path):
    "A function that starts a command on the toy run."
    write_notebook(tmp_path/'toy.ipynb', *CELLS, parameters=PARAMETERS, title='# Toy\n> Trains.')
    env = os.environ | dict(PYTHONPATH=str(Path(__file__).parent), OMP_NUM_THREADS='1')
    env.pop('AUDIOML_PROGRESS')
    return lambda *words: subprocess.Popen([*AUDIOML, 'runs', 'start', 'toy.ipynb', *words], cwd=tmp_path, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)

@pytest.mark.alone
def test_a_run_of_two_processes_is_killed_and_one_finishes_it(toy, tmp_path):
    folder = tmp_path/'runs'/'toy'
    p = toy('--processes', '2', '--split-batches', '-p', 'pause=.3')
    while p.poll() is None and len(list(folder.glob('checkpoints/epoch_*'))) < 2: time.sleep(.05)
    assert p.poll() is None, p.communicate()
    p.terminate()
    assert p.wait() == 128 + signal.SIGTERM and not (folder/'metrics.json').exists()
    learn, recipe = speller(4), TrainConfig(epochs=6, lr=1e-2, checkpoint_iterations=1)
    history = fit(learn, recipe, RunFolder(folder, dict(bs=4, n_epoch=6), resume=True), resume=True)
    assert len(history) == 6 and len(learn.recorder.losses) == 5*6 # those of the run that was killed are remembered
    assert apart(learn.model.state_dict(), train(speller, 4, recipe)[1]) < 1e-5

@pytest.mark.alone
def test_runs_of_two_processes_from_the_command_line(toy, tmp_path):
    "One that works, and at the same time one that cannot."
    folder = tmp_path/'runs'/'toy'
    bad = toy('--processes', '2', '-p', 'bs=100', '-p', 'run_dir=runs/bad')
    p = toy('--processes', '2'); out, err = p.communicate()
    assert p.returncode == 0, out + err
    assert json.loads((folder/'metrics.json').read_text()) == dict(processes=2, epochs=6)
    assert out.count('reported') == out.count('epoch 6/6') == out.count('done: ') == 1 and 'Traceback' not in err
    saved, = folder.glob('weights_*.pt') # of the first alone
    assert apart(torch.load(saved), train(speller, 8, TrainConfig(epochs=6, lr=1e-2))[1]) < 1e-5
    assert 'reported' in (folder/'toy.ipynb').read_text() and len(list(folder.glob('*.ipynb'))) == 1
    _, err = bad.communicate()
    assert bad.returncode == 2 and [l for l in err.splitlines() if 'audioml:' in l] == ['audioml: toy: bs 100 is too large']
