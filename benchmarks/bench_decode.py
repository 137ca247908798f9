"""Drawing tokens from a decoder of 6 layers x 256, 8 rows at a time, 256 new tokens each. Prints one line of JSON.

Ours (`inference.decode.sample`, `PRESETS['base']`) against Hugging Face GPT-2 (`generate`) of as many layers, channels and heads: the same
vocabulary, prompts of one token, temperature 1, top-k 50, no row ends before 256 tokens. Each measurement runs in a process of its own on
two threads; the best of several rounds counts. All figures are tokens a second over all rows.

`hf_uncached` and `uncached` read everything again for each token: GPT-2 with `use_cache=False`, and our own model with `use_cache=False`.
`plain` is ours with a head of keys and values for each head of queries, as in GPT-2, instead of two for eight.
`agree` is the largest difference of a logit that was read from the cache from that of the full pass, over rows of several lengths.
Needs transformers, which nothing else here does: pip install transformers
"""
import importlib.util, json, os, subprocess, sys, time

LAYERS, DIM, HEADS, ROWS, NEW, VOCAB, TOP_K, THREADS = 6, 256, 8, 8, 256, 160, 50, 2
TARGETS = dict(over_hf=3., over_hf_uncached=50., agree=1e-4)  # at least; `agree`: at most


def best(draw, rounds):
    "The shortest of several rounds, s; one more goes first to warm up when there are several."
    times = []
    for _ in range(rounds + (rounds > 1)):
        t = time.perf_counter(); draw(); times.append(time.perf_counter()-t)
    return min(times)


def ours(n_kv_heads=None, use_cache=True):
    from audioml.inference.decode import SamplingConfig, sample
    from audioml.models.decoder import PRESETS, Decoder
    cfg = PRESETS['base'].replace(vocab_size=VOCAB)
    if n_kv_heads is not None: cfg = cfg.replace(n_kv_heads=n_kv_heads)
    assert (cfg.n_layers, cfg.dim, cfg.n_heads) == (LAYERS, DIM, HEADS)
    model = Decoder(cfg).eval()
    def draw():
        rows = sample(model, [[1]]*ROWS, NEW, SamplingConfig(top_k=TOP_K), stop=(), use_cache=use_cache)
        assert [len(r) for r in rows] == [NEW]*ROWS
    return draw


def hf(use_cache=True):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, logging
    logging.set_verbosity_error()
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_positions=1024, n_embd=DIM, n_layer=LAYERS, n_head=HEADS, pad_token_id=0, bos_token_id=1, eos_token_id=2)).eval()
    ids = torch.ones(ROWS, 1, dtype=torch.long)
    def draw():
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1., top_k=TOP_K, min_new_tokens=NEW, max_new_tokens=NEW, use_cache=use_cache)
        assert out.shape == (ROWS, 1+NEW)
    return draw


def agreement():
    "Largest difference of cached and full logits, for prompts of 1 to 8 tokens and 60 tokens read one by one."
    import torch
    from audioml.models.decoder import PRESETS, Decoder
    model = Decoder(PRESETS['base'].replace(vocab_size=VOCAB)).eval()
    for p in model.parameters(): p.data *= 5 if p.ndim > 1 else 1 # else every logit is almost zero
    with torch.inference_mode():
        ids, n, worst = torch.randint(0, VOCAB, (ROWS, 70)), torch.arange(1, ROWS+1), 0.
        full, cache = model(ids), model.new_cache(ROWS, 70)
        model(ids[:, :ROWS], cache=cache, n_new=n)
        for _ in range(60):
            worst = max(worst, float((model(ids.gather(1, n[:, None]), cache=cache)[:, 0] - full[torch.arange(ROWS), n]).abs().max()))
            n = n+1
    return worst


def measure(what):
    import torch
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    if what == 'agree': print(json.dumps(agreement())); return
    draw, rounds = dict(ours=(ours, 5), plain=(lambda: ours(0), 5), uncached=(lambda: ours(use_cache=False), 1), hf=(hf, 3), hf_uncached=(lambda: hf(False), 1))[what]
    print(json.dumps(ROWS*NEW/best(draw(), rounds)))


def run(what):
    env = os.environ | dict(OMP_NUM_THREADS=str(THREADS))
    return json.loads(subprocess.run([sys.executable, __file__, what], env=env, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main():
    if importlib.util.find_spec('transformers') is None:
        print('bench_decode needs transformers: pip install transformers', file=sys.stderr)
        return 2
    speed = {what: run(what) for what in ('ours', 'hf', 'plain', 'uncached', 'hf_uncached')}
    over = dict(over_hf='hf', over_hf_uncached='hf_uncached', over_uncached='uncached', over_plain='plain')
    result = dict(name='decode') | {k: round(speed['ours']/speed[v], 2) for k, v in over.items()} | dict(agree=run('agree'))
    print(json.dumps(result | {f'{k}_tokens_per_s': round(v, 1) for k, v in speed.items()} | dict(targets=TARGETS)))
    return int(result['agree'] > TARGETS['agree'] or any(result[k] < v for k, v in TARGETS.items() if k != 'agree'))


if __name__ == '__main__': sys.exit(measure(sys.argv[1]) if len(sys.argv) > 1 else main())
