"""Training of a codec, and of a 48 kHz decoder, goes on after an interruption as if there had been none: at any iteration, in either phase,
where slices grow, with discriminators, and after a kill."""
import multiprocessing, os, signal, time
from pathlib import Path
import pytest, torch
from fastai.callback.core import Callback
from audioml.codec.cache import build_cache
from audioml.codec.discriminators import Discriminators, MultiPeriodDiscriminator, MultiResolutionDiscriminator
from audioml.codec.learner import Adversary, snac_learner, snac_recipe, sound_store, wide_learner, wide_recipe
from audioml.codec.model import CODEC_PRESETS, Codec, load_codec, save_codec, widen
from audioml.codec.synth import synth_sounds
from audioml.core import RunFolder
from audioml.training.learner import fit

TINY = CODEC_PRESETS['small'].replace(encoder_dim=2, decoder_dim=32, codebook_size=16)
SOUNDS = synth_sounds(10, seed=0, seconds=(.5, .8))
VALID = {name: 'valid' for name, _ in SOUNDS[::5]}
PLAN = wide_recipe(4, lr=2e-3, warm_lr=1e-3, seconds=(.2, .35, .5), ema=.9, checkpoint_iterations=1, keep=99)  # batches of 4, 4, 2 and 2
SNAC = snac_recipe(2, lr=2e-3, ema=.9, checkpoint_iterations=1, restore_best=True)

def where(name): return VALID.get(name, 'train')

@pytest.fixture(scope='module', autouse=True)
def one_thread():
    before = torch.get_num_threads(); torch.set_num_threads(1)
    old = os.environ.get('AUDIOML_PROGRESS'); os.environ['AUDIOML_PROGRESS'] = 'off'
    yield
    torch.set_num_threads(before)
    os.environ.pop('AUDIOML_PROGRESS') if old is None else os.environ.__setitem__('AUDIOML_PROGRESS', old)

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A folder with a codec of random weights, its cache, and the sounds."
    folder = tmp_path_factory.mktemp('made')
    with torch.random.fork_rng():
        torch.manual_seed(0); save_codec(folder/'codec', Codec(TINY).eval(), card='# A test')
    build_cache(folder/'cache', SOUNDS, folder/'codec', rows_per_shard=4, split=where, progress=False)
    sound_store(folder/'sounds', SOUNDS, split=VALID, progress=False)
    return folder

def wide(made, judged=False):
    from audioml.shards import ShardStore
    learn = wide_learner(ShardStore(made/'cache'), widen(load_codec(made/'codec')), PLAN, bs=4, valid_seconds=.35, every=1., device='cpu')
    torch.manual_seed(1)
    return learn, PLAN, [Adversary(Discriminators(MultiPeriodDiscriminator((2,), (4, 4)), MultiResolutionDiscriminator(((256, 128),), (4, 4))), start=1)] if judged else []

def snac(made):
    from audioml.stores import FeatureStore
    return snac_learner(FeatureStore(made/'sounds'), TINY, seconds=.35, bs=4, device='cpu'), SNAC, []

class Break(Callback):
    order = 1000  # after everybody else
    def __init__(self, at): self.at = at
    def after_batch(self):
        if self.training and self.train_iter == self.at: raise KeyboardInterrupt

def train(make, folder, breaks=()):
    "Train to the end with interruptions; return all that a run makes."
    for at in (*breaks, None):
        learn, plan, cbs = make()
        run = RunFolder(folder, plan.to_dict(), resume=True)
        try: fit(learn, plan, run, resume=True, cbs=[*cbs, Break(at)])
        except KeyboardInterrupt: pass
    best = sorted(p.name for p in run.checkpoints.glob('best*'))[-1]
    state = {**learn.model.state_dict(), **{f'judge.{k}': v for cb in cbs for k, v in cb.judges.state_dict().items()}}
    return state, run.history.read_bytes(), [float(x) for x in learn.recorder.losses], [float(x) for x in learn.recorder.lrs], best, list(learn.recorder.iters)

def assert_same(a, b):
    assert a[1:] == b[1:]
    for k, v in a[0].items(): assert torch.equal(v, b[0][k]), k

@pytest.fixture(scope='module')
def whole(made, tmp_path_factory): return train(lambda: wide(made), tmp_path_factory.mktemp('whole')/'run')

def test_the_plan_has_what_makes_resuming_hard(whole, made):
    _, _, _, lrs, _, iters = whole
    sizes = [b - a for a, b in zip([0, *iters], iters)]
    assert len(set(sizes)) > 1 and PLAN.warm_epochs == 1 and len(PLAN.curriculum) == 3  # epochs of different length, two phases, three lengths
    assert set(lrs[:sizes[0]]) == {1e-3} and lrs[sizes[0]] == pytest.approx(2e-3/25)

def test_resumes_after_every_iteration(whole, made, tmp_path):
    "Broken off after the first batch, resumed, broken off after the second, and so on to the end."
    assert_same(train(lambda: wide(made), tmp_path/'run', range(1, whole[-1][-1] + 1)), whole)

def test_resumes_where_phases_and_lengths_meet(whole, made, tmp_path):
    "A run each, so that all else is undisturbed."
    for border in whole[-1][:2]: assert_same(train(lambda: wide(made), tmp_path/str(border), [border]), whole)

def test_discriminators_resume(made, tmp_path):
    alone = train(lambda: wide(made, True), tmp_path/'alone')
    assert any(k.startswith('judge.') for k in alone[0])
    ends = alone[-1]
    assert_same(train(lambda: wide(made, True), tmp_path/'broken', [ends[0] + 1, ends[2]]), alone)

def test_a_codec_in_training_resumes(made, tmp_path):
    alone = train(lambda: snac(made), tmp_path/'alone')
    assert_same(train(lambda: snac(made), tmp_path/'broken', range(1, alone[-1][-1] + 1)), alone)
    assert alone[0]['codec.idle'].min() == 0  # some codes were used, and the count of the others is part of what came back

def in_a_process(made, folder):
    os.environ['AUDIOML_PROGRESS'] = 'off'
    torch.set_num_threads(1)
    learn, plan, _ = wide(Path(made))
    fit(learn, plan, RunFolder(folder, plan.to_dict(), resume=True), resume=True, cbs=[Callback(after_batch=lambda self: time.sleep(.02))])

def test_killed(whole, made, tmp_path):
    "SIGKILL, at three moments."
    context, folder = multiprocessing.get_context('forkserver'), tmp_path/'killed'
    context.set_forkserver_preload(['audioml.codec.learner'])
    seen = lambda: len([p for p in (folder/'checkpoints').glob('epoch*')]) if (folder/'checkpoints').is_dir() else 0
    for n in (1, 4, 9):
        p = context.Process(target=in_a_process, args=(str(made), str(folder))); p.start()
        deadline = time.monotonic() + 120
        while seen() < n and p.is_alive() and time.monotonic() < deadline: time.sleep(.002)
        assert p.is_alive() and seen() >= n
        os.kill(p.pid, signal.SIGKILL); p.join()
    assert_same(train(lambda: wide(made), folder), whole)
