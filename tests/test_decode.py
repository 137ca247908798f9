"Laws of decoding: filters over any logits, rows that do not need each other, and distributions counted over many rows."
import itertools, math
import numpy as np, pytest, torch
from hypothesis import assume, given, settings, strategies as st
from scipy.stats import chi2
from audioml.core import *
from audioml.inference import decode
from audioml.inference.decode import *
from audioml.models.decoder import *
from audioml.testing import seeded
from audioml.tokenizers import *

SETTINGS = settings(max_examples=150, deadline=None)
NEVER = -math.inf
# few values, so that ties are common; huge ones, and tokens that the model rules out
values = st.sampled_from([0., 1., 1., 2.5, -3., 1e4, -1e4, 1e30, -1e30, NEVER]) | st.floats(-20, 20, width=32)
rows = st.lists(st.tuples(values, st.booleans()), min_size=1, max_size=12)
configs = st.builds(SamplingConfig, temperature=st.sampled_from([0., 1e-6, .5, 1., 3., 1e6]), top_k=st.integers(0, 14),
                    top_p=st.floats(1e-6, 1.), min_p=st.floats(0., 1.))


def row(tokens):
    "Logits and mask of one row in which something can be chosen."
    x, mask = torch.tensor([[v for v, _ in tokens]]), torch.tensor([[m for _, m in tokens]])
    assume((mask & (x > NEVER)).any())
    return x, mask


@SETTINGS
@given(rows, configs)
def test_filters_leave_something_and_reorder_nothing(tokens, cfg):
    x, mask = row(tokens)
    y = filter_logits(x, cfg, mask)
    p, kept = y.softmax(-1, dtype=torch.float64)[0], (y > NEVER)[0]
    assert kept.any() and not (kept & ~(mask & (x > NEVER))[0]).any()
    assert abs(p.sum().item()-1) < 1e-12 and torch.equal(kept, p > 0) or cfg.temperature < 1 # p may underflow to 0
    best = torch.where(mask, x, NEVER)[0]
    assert kept[best.argmax()] # the likeliest, of equals the first
    for i, j in itertools.permutations(range(len(p)), 2):
        if mask[0, i] and mask[0, j] and x[0, i] >= x[0, j]: assert p[i] >= p[j] or cfg.temperature == 0


@SETTINGS
@given(rows, configs, st.randoms(use_true_random=False))
def test_filters_do_not_see_ids(tokens, cfg, random):
    "Tokens in another order are filtered as before; only temperature 0 looks at ids, where two are equal."
    assume(cfg.temperature)
    x, mask = row(tokens)
    order = list(range(len(tokens))); random.shuffle(order)
    assert torch.equal(filter_logits(x[:, order], cfg, mask[:, order]), filter_logits(x, cfg, mask)[:, order])


@SETTINGS
@given(rows, st.integers(1, 12), st.floats(.01, .99), st.floats(0, .01))
def test_stricter_filters_keep_less(tokens, k, p, more):
    x, mask = row(tokens)
    kept = lambda **cfg: filter_logits(x, SamplingConfig(**cfg), mask) > NEVER
    for strict, loose in ((dict(top_k=k), dict(top_k=k+1)), (dict(top_p=p), dict(top_p=p+more)), (dict(min_p=p+more), dict(min_p=p))):
        assert not (kept(**strict) & ~kept(**loose)).any()
    allowed = (mask & (x > NEVER)).sum()
    assert kept(top_k=k).sum() >= min(k, allowed) and kept(top_k=len(tokens)).sum() == allowed


@SETTINGS
@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=8), st.lists(st.integers(-1, 7), max_size=10), st.floats(1., 10.))
def test_penalty_lowers_what_came_lately(tokens, recent, penalty):
    recent = [i for i in recent if i < len(tokens)]; x = torch.tensor([tokens])
    y, came = penalise(x, torch.tensor([recent], dtype=torch.int64), penalty)[0], {*recent} - {-1}
    for i, (old, new) in enumerate(zip(x[0], y)): assert new <= old if i in came else new == old


@SETTINGS
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.floats(0, 1, exclude_max=True))
def test_draws_invert_the_distribution(p, u):
    assume(sum(p) > 1e-6)
    p = np.array(p); i = draw(torch.tensor(p)[None], [u]).item(); c = np.cumsum(p)/p.sum()
    assert p[i] > 0 and c[i]-p[i]/p.sum() <= u+1e-9 and u <= c[i]+1e-9


def test_broken_logits_are_named():
    for bad, what in ((math.nan, 'NaN'), (math.inf, 'NaN')):
        x = torch.zeros(3, 4); x[1, 2] = bad
        for cfg in (SamplingConfig(), SamplingConfig(temperature=0), SamplingConfig(top_k=2, top_p=.5)):
            with pytest.raises(BadInput, match=f'row 1 of the batch: {what}'): filter_logits(x, cfg)
            with pytest.raises(BadInput, match=f'row 1 of the batch: {what}'): filter_logits(x, cfg, torch.arange(4).expand(3, 4) < 2)
    with pytest.raises(BadInput, match='row 0 of the batch: no token that may come'): filter_logits(torch.tensor([[0., NEVER]]), SamplingConfig(), torch.tensor([[False, True]]))


# models of nothing, wild enough that every token matters
V = 8
VOCAB = Vocabulary(dict(bar=('|',), note=(0, 1, 2, 3)))
GRAMMAR = Grammar(VOCAB, dict(BOS=('bar',), bar=('note',), note=('note', 'bar', 'EOS')), rises=dict(note=('bar', False)))

def wild(seed, dim=16, std=.4):
    with seeded(seed):
        model = Decoder(DecoderConfig(vocab_size=V, dim=dim, n_layers=2, n_heads=2, context=32, dropout=0.)); model.reset(std=std)
    return model.eval().requires_grad_(False)

def conditions(seed, n, dim=16): return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))

def jobs(seed, n):
    "Rows with prompts, limits, stops and conditions of their own."
    rng = derive_rng('jobs', seed)
    prompts = [[BOS, *([3, 4] * int(rng.integers(0, 6)))] for _ in range(n)]
    return dict(prompts=prompts, max_new=[int(rng.integers(0, 33-len(p))) for p in prompts], seeds=[int(s) for s in rng.integers(0, 99, n)],
                stop=[[(), (EOS,), (EOS, 3)][i] for i in rng.integers(0, 3, n)], condition=conditions(seed, n))

def rows_of(job, at): return {k: v[at] if isinstance(v, torch.Tensor) else [v[i] for i in at] for k, v in job.items()}

CONFIGS = [SamplingConfig(), SamplingConfig(temperature=.7, top_k=4, repetition_penalty=1.3, repetition_window=5), SamplingConfig(guidance=2., top_p=.9),
           SamplingConfig(temperature=1.5, min_p=.1, guidance=.5)]

def same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b): assert np.array_equal(x, y), (x, y)


@pytest.mark.parametrize('which', range(4))
@pytest.mark.parametrize('way', ['sample', 'speculative'])
def test_a_row_does_not_need_the_others(which, way):
    cfg, job = CONFIGS[which], jobs(which, 9)
    def run(at, **kw):
        part = rows_of(job, at); models = [wild(which)] if way == 'sample' else [wild(which), wild(50, dim=8)]
        return getattr(decode, way)(*models, part.pop('prompts'), part.pop('max_new'), cfg, uncondition=torch.zeros(16), grammar=GRAMMAR.start(len(at)), **part, **kw)
    together = run(range(9))
    same([run([i])[0] for i in range(9)], together)
    same(run(range(8, -1, -1)), together[::-1]); same(run([2, 2, 5]), [together[i] for i in (2, 2, 5)])
    same(run(range(9), use_cache=False), together)
    for p, new in zip(job['prompts'], together): GRAMMAR.check([*p, *new])


@pytest.mark.parametrize('n_draft', [1, 2, 3, 7])
def test_greedy_is_greedy_with_any_draft(n_draft):
    for which, cfg in enumerate(CONFIGS):
        job, cfg = jobs(10+which, 7), cfg.replace(temperature=0)
        for grammar, helper in itertools.product((None, GRAMMAR.start(7)), (wild(3), wild(60, dim=8))):
            kw = dict(job, cfg=cfg, uncondition=torch.zeros(16), grammar=grammar)
            same(speculative(wild(3), helper, n_draft=n_draft, **kw), sample(wild(3), **kw))


def test_a_model_that_is_its_own_draft_accepts_all():
    stats, model = {}, wild(1)
    for cfg in (SamplingConfig(), SamplingConfig(temperature=1.4, top_k=5, top_p=.9)): speculative(model, model, [[BOS]]*50, 20, cfg, n_draft=4, stop=(), stats=stats)
    assert stats == dict(calls=4, row_calls=200, drafted=800, accepted=800, tokens=1000)


# distributions

def exact(model, prompt, n, cfg, condition, state=None):
    "Probabilities of all sequences of `n` tokens, (V,)*n; PAD follows EOS."
    res = np.zeros((V,)*n)
    def grow(ids, p):
        if len(ids) == n: res[tuple(ids)] += p; return
        if EOS in ids: return grow([*ids, PAD], p)
        x = torch.tensor([[*prompt, *ids]])
        c, u = (model(x, condition=v[None])[:, -1] for v in (condition, torch.zeros_like(condition)))
        recent = torch.tensor([[*prompt, *ids][::-1][:cfg.repetition_window]])
        mask = None if state is None else state.copy().feed([[*prompt, *ids]]).mask()
        q = filter_logits(u + cfg.guidance*(c-u), cfg, mask, recent).softmax(-1, dtype=torch.float64)[0].numpy()
        for i in np.flatnonzero(q): grow([*ids, int(i)], p*q[i])
    grow([], 1.)
    return res.ravel()

def misfit(new, p, n):
    "Probability of a chi-square at least as high, were the first `n` tokens of the rows drawn with `p`; rare cells are pooled."
    ids = np.array([[*x, *[PAD]*n][:n] for x in new]); counts = np.bincount(np.ravel_multi_index(ids.T, (V,)*n), minlength=V**n)
    assert not counts[p == 0].any(), 'a token came that cannot come'
    e = p*len(new); rare = e < 5
    o, e = (np.append(x[~rare], x[rare].sum()) for x in (counts, e)); o, e = o[e > 0], e[e > 0]
    assert len(e) > 5, 'too few different sequences to tell'
    return float(chi2.sf(((o-e)**2/e).sum(), len(e)-1))

def drawn(way, models, cfg, n_rows, condition, ruled, seed):
    state = GRAMMAR.start(n_rows) if ruled else None
    return getattr(decode, way)(*models, [[BOS, 3]]*n_rows, 4, cfg, seeds=seed, condition=condition, uncondition=torch.zeros(16), grammar=state)


@pytest.mark.parametrize('ruled', [False, True])
@pytest.mark.parametrize('which', range(4))
def test_three_tokens_have_the_probabilities_of_the_model(which, ruled):
    model, cfg, condition = wild(20+which, std=.2), CONFIGS[which], conditions(which, 1)[0]
    want = exact(model, [BOS, 3], 3, cfg, condition, GRAMMAR.start(1) if ruled else None)
    assert abs(want.sum()-1) < 1e-9
    assert misfit(drawn('sample', [model], cfg, 3000, condition, ruled, seed=which), want, 3) > 1e-4
    for draft in (wild(70, dim=8), wild(20+which, std=.2)): # a poor one; the model itself, without its condition
        assert misfit(drawn('speculative', [model, draft], cfg, 3000, condition, ruled, seed=which), want, 3) > 1e-4


WRONG = dict(accept_all=('_accept', lambda p, q, drafts, k, u: k),
             accept_none_but_redraw_what_lacks=('_accept', lambda p, q, drafts, k, u: 0*k),
             redraw_from_the_model=('_lacking', lambda p, q: p),
             redraw_from_the_draft=('_lacking', lambda p, q: torch.where(q.sum(-1, keepdim=True) > 0, q, p)))

@pytest.mark.parametrize('name', WRONG)
def test_wrong_rules_are_caught(name, monkeypatch):
    "The check above has teeth: each way to get it wrong fails it."
    model, cfg, condition = wild(20, std=.2), CONFIGS[0], conditions(0, 1)[0]
    monkeypatch.setattr(decode, *WRONG[name])
    assert misfit(drawn('speculative', [model, wild(70, dim=8)], cfg, 3000, condition, False, seed=0), exact(model, [BOS, 3], 3, cfg, condition), 3) < 1e-10
