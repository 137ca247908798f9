"Losses of sound over many shapes and against auraloss, silence anywhere, and ViSQOL when its package is there."
import sys, types
import auraloss, numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from audioml.codec.metrics import codec_scores, visqol
from audioml.codec.synth import SOUNDS, synth_sound
from audioml.core import BadInput
from audioml.losses import RESOLUTIONS, MelDistance, MultiResolutionSTFT, waveform_l1

OURS, MEL = MultiResolutionSTFT(), MelDistance(48000)
noise = lambda seed, *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

@settings(max_examples=25, deadline=None)
@given(b=st.integers(1, 3), c=st.integers(1, 2), n=st.integers(1025, 6000), level=st.floats(.01, 1.), resolutions=st.lists(st.sampled_from(RESOLUTIONS + ((256, 64, 256),)), min_size=1, max_size=3), seed=st.integers(0, 9))
def test_equals_auraloss(b, c, n, level, resolutions, seed):
    pred, target = level*noise(seed, b, c, n), level*noise(seed+1, b, c, n).cumsum(-1).tanh()
    fft, hop, window = (list(v) for v in zip(*resolutions))
    want = auraloss.freq.MultiResolutionSTFTLoss(fft_sizes=fft, hop_sizes=hop, win_lengths=window)
    p, q = pred.clone().requires_grad_(), pred.clone().requires_grad_()
    a, w = MultiResolutionSTFT(resolutions)(p, target), want(q, target)
    assert a.item() == pytest.approx(w.item(), abs=1e-4)
    a.backward(); w.backward(); torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5)

@pytest.mark.parametrize('kind', SOUNDS)
def test_equals_auraloss_on_sound(kind):
    target, pred = (synth_sound(kind, i, 1.).samples[None] for i in (1, 2))
    assert OURS(pred, target).item() == pytest.approx(auraloss.freq.MultiResolutionSTFTLoss()(pred, target).item(), abs=1e-4)

LEVELS = st.sampled_from([0., 1e-30, 1e-12, 1e-6, 1e-3, 1., 1e3])

@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 3000), b=st.integers(1, 3), pred_level=LEVELS, target_level=LEVELS, holes=st.booleans(), data=st.data())
def test_finite_for_any_level_and_length(n, b, pred_level, target_level, holes, data):
    pred, target = pred_level*noise(n, b, 1, n), target_level*noise(n+1, b, 1, n)
    if holes and n: cut = data.draw(st.integers(0, n)); pred[..., cut:] = 0; target[..., :cut] = 0
    mask = data.draw(st.none() | st.lists(st.integers(0, n), min_size=b, max_size=b).map(torch.tensor))
    for f in (OURS, MEL, waveform_l1):
        p = pred.clone().requires_grad_(); loss = f(p, target, mask); loss.backward()
        assert loss.isfinite() and p.grad.isfinite().all(), f

@settings(max_examples=15, deadline=None)
@given(n=st.integers(64, 2500), extra=st.integers(1, 1500), seed=st.integers(0, 9))
def test_padding_moves_the_loss_only_at_the_border(n, extra, seed):
    "A row that is padded and masked gives the loss of the row alone, but for the frames that see its end: mirrored there, silent here."
    pred, target = noise(seed, 1, 1, n), noise(seed+1, 1, 1, n)
    pad = lambda x, v: torch.nn.functional.pad(x, (0, extra), value=v)
    for f in (OURS, MEL):
        padded = [f(pad(pred, v), pad(target, w), torch.tensor([n])) for v, w in ((0., 0.), (5., -3.), (float('nan'), float('inf')))]
        assert padded[0] == padded[1] == padded[2]
        if n > 1024: assert padded[0].item() == pytest.approx(f(pred, target).item(), rel=.25)

def test_channels_and_rows_are_the_same():
    pred, target = noise(0, 2, 2, 3000), noise(1, 2, 2, 3000)
    for f in (OURS, MEL, waveform_l1):
        torch.testing.assert_close(f(pred, target), f(pred.reshape(4, 1, -1), target.reshape(4, 1, -1)))
        lengths = torch.tensor([3000, 1200]); torch.testing.assert_close(f(pred, target, lengths), f(pred.reshape(4, 1, -1), target.reshape(4, 1, -1), lengths.repeat_interleave(2)))

def test_half_precision_is_computed_in_single():
    pred, target = noise(0, 1, 1, 3000).bfloat16(), noise(1, 1, 1, 3000).bfloat16()
    for f in (OURS, MEL): torch.testing.assert_close(f(pred, target), f(pred.float(), target.float()))

def test_visqol_when_it_is_there(monkeypatch):
    seen = {}
    class Api:
        def Create(self, config): seen['rate'], seen['model'] = config.audio.sample_rate, config.options.svr_model_path
        def Measure(self, target, pred): seen['given'] = target, pred; return types.SimpleNamespace(moslqo=4.25)
    box = lambda **k: types.SimpleNamespace(**k)
    lib = box(VisqolApi=Api, __file__='/somewhere/visqol_lib_py.so')
    config = box(VisqolConfig=lambda: box(audio=box(sample_rate=0), options=box(svr_model_path='')))
    package = types.ModuleType('visqol'); package.visqol_lib_py = lib
    pb2 = types.ModuleType('visqol.pb2'); pb2.visqol_config_pb2 = config
    monkeypatch.setitem(sys.modules, 'visqol', package); monkeypatch.setitem(sys.modules, 'visqol.pb2', pb2)
    x = .1*noise(0, 24000)
    assert codec_scores(x, x, 24000)['visqol'] == 4.25
    target, pred = seen['given']
    assert target.dtype == np.float64 and target.shape == pred.shape == (48000,) and seen['rate'] == 48000
    assert seen['model'] == '/somewhere/model/libsvm_nu_svr_model.txt'

def test_visqol_without_the_package_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, 'visqol', None)
    assert visqol(torch.ones(100), torch.ones(100)) is None
    with pytest.raises(BadInput, match='the prediction has 99 samples'): visqol(torch.ones(100), torch.ones(99))
