"""A training step of the spectrogram transformer with 5 M parameters: 8 windows of 256 patches. Prints one line of JSON.

Ours (`models.encoder`, `PATCH_PRESETS['5M']`) against the AST of Hugging Face (`ASTModel`) of as many layers, channels, heads, patches and
parameters, without dropout: forward, backward, and a step of the same AdamW, `fused`. Both run in one process, in turns, so that whatever
else the machine does hits both; the best of several rounds counts. Two threads is what the target is for; one thread is told as well.
`agree` is the largest difference of their outputs with the same weights, which shows that both compute the same.
Needs transformers, which the development requirements bring along
"""
import importlib.util, json, os, subprocess, sys, time

BATCH, FRAMES, PATCHES, ROUNDS = 8, 512, 256, 9
TARGETS = dict(over_hf=1.2, agree=1e-4)  # at least; `agree`: at most


def models():
    "Both encoders with the same weights, and how far apart their outputs are."
    import torch
    from transformers import ASTConfig, ASTModel, logging
    from audioml.models.encoder import PATCH_PRESETS, PatchEncoder, ast_weights
    logging.set_verbosity_error()
    cfg = PATCH_PRESETS['5M'].replace(max_frames=FRAMES, n_extra=2, dropout=0.)
    hf = ASTModel(ASTConfig(hidden_size=cfg.dim, num_hidden_layers=cfg.n_layers, num_attention_heads=cfg.n_heads, intermediate_size=int(cfg.expand*cfg.dim), patch_size=16,
                            frequency_stride=16, time_stride=16, max_length=FRAMES, num_mel_bins=cfg.n_mels)).train()
    ours = PatchEncoder(cfg).train()
    rows, columns = cfg.grid(FRAMES)
    assert rows*columns == PATCHES and abs(sum(p.numel() for p in ours.parameters())/5e6 - 1) < .05
    ours.load_state_dict(ast_weights(hf.state_dict(), rows))
    x = torch.randn(BATCH, FRAMES, cfg.n_mels)/2
    with torch.no_grad(): agree = float((ours(x).tokens - hf(x).last_hidden_state[:, 2:]).abs().max())
    return ours, hf, x, agree


def step_of(model, outputs, x):
    "A function that takes one step of training."
    import torch
    opt = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=.01, fused=True)
    def step():
        outputs(model(x)).square().mean().backward()
        opt.step(); opt.zero_grad()
    return step


def measure(threads):
    import torch
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    ours, hf, x, agree = models()
    steps = dict(ours=step_of(ours, lambda out: torch.cat([out.extra, out.tokens], 1), x), hf=step_of(hf, lambda out: out.last_hidden_state, x))
    best = dict.fromkeys(steps, float('inf'))
    for i in range(1 + ROUNDS):
        for name, step in steps.items():
            t = time.perf_counter(); step(); t = time.perf_counter()-t
            if i: best[name] = min(best[name], t)  # the first warms up
    print(json.dumps(best | dict(agree=agree)))


def run(threads):
    env = os.environ | dict(OMP_NUM_THREADS=str(threads))
    return json.loads(subprocess.run([sys.executable, __file__, str(threads)], env=env, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main():
    if importlib.util.find_spec('transformers') is None:
        print('bench_ast needs transformers: pip install transformers', file=sys.stderr)
        return 2
    two, one = run(2), run(1)
    result = dict(name='ast', over_hf=round(two['hf']/two['ours'], 2), over_hf_one_thread=round(one['hf']/one['ours'], 2), agree=max(one['agree'], two['agree']))
    print(json.dumps(result | {f'{k}_step_s': round(two[k], 3) for k in ('ours', 'hf')} | {f'{k}_step_s_one_thread': round(one[k], 3) for k in ('ours', 'hf')} | dict(targets=TARGETS)))
    return int(result['over_hf'] < TARGETS['over_hf'] or not result['agree'] < TARGETS['agree'])


if __name__ == '__main__': sys.exit(measure(int(sys.argv[1])) if len(sys.argv) > 1 else main())
