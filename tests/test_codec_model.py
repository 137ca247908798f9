"The codec against its package, slices against the whole, the new stage against the one it is made from: all starts, many shapes, the real size."
import pickle
from copy import deepcopy
import pytest, torch
from hypothesis import Phase, given, settings, strategies as st
from snac import SNAC
from snac.layers import NoiseBlock
from torch import nn
from audioml.codec.discriminators import *
from audioml.codec.model import *
from audioml.core import BadInput
from audioml.testing import seeded

TINY = CodecConfig(encoder_dim=2, decoder_dim=64, codebook_size=32)
ATTENTION = CodecConfig(encoder_dim=4, encoder_rates=(2, 2, 2, 4), decoder_dim=64, decoder_rates=(4, 2, 2, 2), codebook_size=16, vq_strides=(4, 2, 1), attn_window_size=8)
ODD = CodecConfig(encoder_dim=2, encoder_rates=(3, 5, 2), decoder_dim=32, decoder_rates=(5, 3, 2), codebook_size=16, vq_strides=(6, 3, 1), depthwise=False)
SHAPES = dict(tiny=TINY, attention=ATTENTION, odd=ODD, silent=TINY.replace(noise=False), small=CODEC_PRESETS['small'])

def make(cfg):
    with seeded(0): return Codec(cfg).eval()

def random_codes(cfg, n_steps, b=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(0, cfg.codebook_size, (b, n_steps*r), generator=g) for r in cfg.per_step]

class Silent(nn.Module):
    def __init__(self, linear): super().__init__(); self.linear = linear
    def forward(self, x): return x

def the_package(cfg, weights):
    "The package's own model, its noise blocks silenced."
    package = SNAC(**{k: list(v) if isinstance(v, tuple) else v for k, v in cfg.to_dict().items()})
    for parent in list(package.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, NoiseBlock): setattr(parent, name, Silent(child.linear))
    package.load_state_dict(weights)
    return package.eval()

@torch.no_grad()
def worst_slice(model, n_steps, n, starts=None, noise=1, context=None):
    "Largest difference between a slice with context, cropped, and the same part of the whole."
    codes, rate, worst = random_codes(model.cfg, n_steps), model.samples_per_step, 0.
    whole, context = model.decode(codes, noise=noise), context_steps(model) if context is None else context
    for s in range(n_steps-n+1) if starts is None else starts:
        left, right = min(context, s), min(context, n_steps-s-n)
        part = [c[:, (s-left)*r:(s+n+right)*r] for c, r in zip(codes, model.cfg.per_step)]
        got = decode_slice(model, part, left, right, noise, s)
        assert got.shape == (1, 1, n*rate)
        worst = max(worst, (got - whole[..., s*rate:(s+n)*rate]).abs().max().item())
    return worst

@pytest.fixture(scope='module')
def big(): return make(CODEC_PRESETS['24khz'])

def test_real_size(big):
    "19,842,914 parameters; encode and decode are the package's; slices are parts of the whole at both rates; three steps of context."
    assert sum(p.numel() for p in big.parameters()) == 19_842_914
    package, x = the_package(big.cfg, big.net.state_dict()), torch.randn(2, 1, 20_000)*.1
    with torch.no_grad():
        theirs, ours = package.encode(x), big.encode(x)
        assert all(torch.equal(a, b) for a, b in zip(theirs, ours))
        assert (package.decode(theirs) - big.decode(ours)).abs().max() <= 1e-6
    wide = widen(big)
    assert context_steps(big) == context_steps(wide) == 3
    with torch.no_grad(), seeded(1): # the new stage on white noise, against the one before it
        assert abs(rms(wide.up(torch.randn(1, 64, 400)))/rms(big.net.decoder.model[-4](torch.randn(1, 128, 400))) - 1) < .1
    assert max(worst_slice(big, 12, 3, (0, 2, 5, 9)), worst_slice(wide, 12, 3, (0, 2, 5, 9))) < 1e-5

@pytest.mark.parametrize('name', SHAPES)
def test_package(name):
    codec, n = make(SHAPES[name]), SHAPES[name].step
    package = the_package(codec.cfg, codec.net.state_dict())
    with torch.no_grad():
        for size in (1, n-1, n, 3*n+1):
            x = torch.randn(2, 1, size)*.1
            theirs, ours = package.encode(x), codec.encode(x)
            assert all(torch.equal(a, b) for a, b in zip(theirs, ours)) and [c.shape[1] for c in ours] == [-(-size//n)*r for r in codec.cfg.per_step]
            assert (package.decode(theirs) - codec.decode(ours)).abs().max() <= 1e-6

@pytest.mark.parametrize('name', SHAPES)
def test_every_slice(name):
    "Every start; and with one step of context fewer it is no longer right, so the count is not too large either."
    codec = make(SHAPES[name])
    for model in (codec, widen(codec)):
        context = context_steps(model)
        assert worst_slice(model, 2*context+5, 2) < 1e-5
        if name != 'attention': assert worst_slice(model, 2*context+5, 2, context=context-1) > 1e-5 # there, the count is of whole windows

@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.data())
def test_slices_of_any_codec(data):
    "Any strides, levels and depth: slices with context are exact, streams too."
    rates = data.draw(st.lists(st.integers(2, 5), min_size=1, max_size=3)) + [2]
    strides = [data.draw(st.integers(1, 3))]
    for _ in range(data.draw(st.integers(0, 2))): strides.insert(0, strides[0]*data.draw(st.integers(1, 3)))
    cfg = CodecConfig(encoder_dim=2, encoder_rates=tuple(rates[::-1]), decoder_dim=2*2**len(rates), decoder_rates=tuple(rates), codebook_size=8,
                      vq_strides=tuple(strides), depthwise=data.draw(st.booleans()), noise=data.draw(st.booleans()))
    codec = make(cfg)
    for model in (codec, widen(codec)):
        n_steps = data.draw(st.integers(1, 9)); n = data.draw(st.integers(1, n_steps))
        assert worst_slice(model, n_steps, n) < 1e-5
        codes = random_codes(cfg, n_steps)
        with torch.no_grad(): whole = model.decode(codes, noise=4)[0]
        assert (torch.cat(list(decode_stream(model, codes, n, noise=4)), 1) - whole).abs().max() < 1e-5
    x = torch.randn(1, data.draw(st.integers(1, 9*cfg.step)))*.1
    parts = list(encode_stream(codec, x.split(data.draw(st.integers(1, 5*cfg.step)), 1), n))
    same = torch.cat([(a == b).flatten() for a, b in zip(codec.encode(x[None]), [torch.cat(p, 1) for p in zip(*parts)])])
    assert same.float().mean() > .98 # two code vectors can be equally near

def test_batch_of_slices():
    "Rows with different context, any order, filled up with any code; and none at all."
    wide = widen(make(TINY)); codes = random_codes(TINY, 20)
    starts, n = [9, 0, 17, 1, 9], 3
    rows, left, right = [], [], []
    for s in starts:
        l, r = min(3, s), min(3, 20-s-n); left.append(l); right.append(r)
        rows.append([c[0, (s-l)*k:(s+n+r)*k] for c, k in zip(codes, TINY.per_step)])
    for junk in (0, 31):
        batch = [torch.stack([torch.cat([r[i], r[i].new_full((9*k-len(r[i]),), junk)]) for r in rows]) for i, k in enumerate(TINY.per_step)]
        with torch.no_grad(): got, whole = decode_slice(wide, batch, torch.tensor(left), torch.tensor(right), 2, starts), wide.decode(codes, noise=2)[0]
        for y, s in zip(got, starts): assert (y - whole[:, s*4096:(s+n)*4096]).abs().max() < 1e-5
    assert decode_slice(wide, [c[:0] for c in batch], 0, 0).shape[0] == 0
    for bad in ((-1, 0), (9, 9), (0, -2)):
        with pytest.raises(BadInput): decode_slice(wide, batch, *bad)
    assert decode_slice(wide, batch, 4, 4).requires_grad, 'a learner needs gradients'

@pytest.mark.parametrize('name', ['tiny', 'odd', 'small', 'silent'])
def test_new_stage(name):
    "As loud as the stage it comes from; no two channels alike; weights changed; parts copied."
    codec = make(SHAPES[name]); cfg = codec.cfg
    if name == 'tiny': # equal channels are told apart
        with torch.no_grad(): last = codec.net.decoder.model[-4].block[1]; last.weight = last.weight[:, :1].expand_as(last.weight).clone()
    wide = widen(codec)
    with torch.no_grad(), seeded(1):
        old = wide.body(wide.quantizer.from_codes(random_codes(cfg, 20, seed=5))); new = wide.up(old)
        assert abs(rms(new)/rms(old) - 1) < .1
        w = wide.up.block[1].weight
        assert not torch.allclose(w, WideDecoder(cfg).up.block[1].weight, atol=1e-3)
        assert torch.pdist(w.transpose(0, 1).flatten(1)).min() > 1e-3*w.std(), 'outputs'
        assert torch.pdist(new.transpose(0, 1).flatten(1)).min() > 1e-3*rms(new)
        assert torch.equal(wide.body[0].weight, codec.net.decoder.model[0].weight)
        again, other = widen(codec), widen(codec, seed=1)
        assert torch.equal(again.up.block[1].weight, w) and not torch.equal(other.up.block[1].weight, w)
    assert all(p.requires_grad for p in wide.parameters())
    assert {k.split('.')[0] for k, _ in wide.named_parameters()} == {'quantizer', 'body', *WideDecoder.NEW}
    before = codec.net.decoder.model[0].weight.detach().clone()
    with torch.no_grad(): wide.body[0].bias.add_(1)
    assert torch.equal(before, codec.net.decoder.model[0].weight), 'the codec keeps its own'

def test_noise():
    "The noise of a moment is the same in any batch, at any place in it; the noise of blocks, steps and seeds differs; the global generator is left alone."
    codec = make(TINY); codes = random_codes(TINY, 6, b=3)
    with torch.no_grad():
        state = torch.get_rng_state()
        whole = codec.decode(codes, noise=5)
        assert torch.equal(state, torch.get_rng_state())
        for i in range(3): assert (codec.decode([c[i:i+1] for c in codes], noise=5)[0] - whole[i]).abs().max() < 1e-5
        assert (codec.decode(codes, noise=5, start=1) - whole).abs().max() > 1e-4
        assert torch.equal(codec.decode(codes), make(TINY).decode(codes))
        assert all(m.draw is None for m in codec.modules() if isinstance(m, TimedNoise))
    with pytest.raises(BadInput): codec.decode(codes[:1], noise=5)
    rows = [step_noise(s, b, t, 1, 2000) for s, b, t in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    gram = torch.corrcoef(torch.stack([torch.from_numpy(r) for r in rows])) - torch.eye(4)
    assert gram.abs().max() < .12

def test_training_is_repeatable():
    "Two trainings of one seed have the same weights to the bit, dead codes and noise included; a third goes on from a saved state."
    def train(n, codec=None, opt=None, rng=None):
        if codec is None: codec = make(TINY).train()
        opt = opt or torch.optim.AdamW(codec.parameters(), lr=1e-3)
        with seeded(3):
            if rng is not None: torch.set_rng_state(rng)
            for i in n:
                y, _, loss = codec(torch.randn(2, 1, 4096, generator=torch.Generator().manual_seed(i))*.1)
                opt.zero_grad(); (y.square().mean() + loss).backward(); opt.step()
            return codec, opt, torch.get_rng_state()
    a, *_ = train(range(4)); b, opt, rng = train(range(2))
    c = pickle.loads(pickle.dumps(b)); opt2 = torch.optim.AdamW(c.parameters(), lr=1e-3); opt2.load_state_dict(deepcopy(opt.state_dict()))
    c, *_ = train(range(2, 4), c, opt2, rng)
    assert all(torch.equal(u, v) for u, v in zip(a.state_dict().values(), c.state_dict().values()))

def test_hub_is_not_needed():
    "No folder and no hub: one line, and no traceback."
    with pytest.raises(BadInput, match='not to be had'): load_snac('no/such/place/anywhere')

def test_discriminators():
    for n in (1, 5, 2000):
        scores, maps = Discriminators()(torch.randn(2, 1, n))
        assert len(scores) == len(maps) == 8 and all(s.shape[0] == 2 and torch.isfinite(s).all() for s in scores) and all(len(m) == len(maps[0]) for m in maps[:5])
    x = torch.zeros(1, 1, 2000, requires_grad=True)
    sum(s.mean() for s in Discriminators()(x)[0]).backward()
    assert torch.isfinite(x.grad).all()
    for bad in (torch.zeros(1, 2, 100), torch.zeros(1, 100), torch.zeros(1, 1, 0)):
        with pytest.raises(BadInput): Discriminators()(bad)
