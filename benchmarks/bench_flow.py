"""Does the flow loss of the note stage lower parity errors? Prints one line of JSON for each seed, and one of the verdict.

The same tiny writer of blocks is trained on embedded songs with and without `flow_loss`: the same songs, weights to begin with, order and
schedule, three seeds. Both then answer the same questions about songs that were not trained on, at the onsets of their maps and with free
hands: the grammar that forbids wrong turns is off, every direction is open, nothing is made safer (temperature 1).
What counts is the share of swings on the wrong side of the wrist (`beatsaber.flow`).
Tests: over the seeds the corrected t-test of Nadeau & Bengio (`stats.corrected_t_test`, with the songs trained on and tested), and over the
songs a permutation test that exchanges with and without song by song. It passes when every seed has fewer errors with the loss than
without, and p over the songs is below 0.05.
"""
import argparse, json, sys, tempfile, time
import numpy as np
from audioml.beatsaber.data import NoteWindows, embedded_songs, map_store
from audioml.beatsaber.decode import WritingConfig
from audioml.beatsaber.flow import swings
from audioml.beatsaber.learner import token_learner, token_recipe
from audioml.beatsaber.model import note_model_config
from audioml.beatsaber.preference import FreeHands, draw_prompts, write_answers
from audioml.stats import corrected_t_test, permutation_test
from audioml.training.learner import fit

NAMES = ('Hard', 'Expert', 'ExpertPlus') # enough swings a bar that wrists matter


def options():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    for name, default, what in (('songs', 36, 'embedded songs, a third of them for the test'), ('seconds', 40., 'length of a song'), ('epochs', 5, 'passes over the training songs'), ('flow', 1., 'weight of the loss'),
                                ('seeds', 3, 'trainings with and without'), ('prompts', 60, 'questions of four bars'), ('lr', 4e-3, 'peak of the learning rate')):
        p.add_argument(f'--{name}', type=type(default), default=default, help=f'{what} ({default})')
    p.add_argument('--store', help='keep the songs in this folder')
    return p.parse_args()


def trained(store, flow, seed, o):
    learn = token_learner(store, note_model_config('tiny', dropout=0.), bs=8, difficulties=NAMES, flow=flow, seed=seed)
    history = fit(learn, token_recipe(o.epochs, o.lr, seed=seed))
    return learn.model, float(history.bits_per_token.iloc[-1])


def errors_by_song(answers):
    "Song -> (errors, swings) of what was written."
    out = {}
    for (a,) in answers:
        s = swings(a.beatmap); s = s[s['beat'] >= a.prompt.start - 1e-6]
        out[a.prompt.song] = out.get(a.prompt.song, 0) + np.array([s['error'].sum(), len(s)])
    return out


def share(rows): return rows[:, 0].sum()/rows[:, 1].sum()


def main():
    o, start = options(), time.time()
    with tempfile.TemporaryDirectory() as folder:
        store = map_store(o.store or folder, *embedded_songs(o.songs, 11, o.seconds, (3, 1, 2)), n_workers=2, progress=False)
        prompts, rows, shares = None, {0.: [], o.flow: []}, {0.: [], o.flow: []}
        for seed in range(o.seeds):
            said = dict(seed=seed)
            for flow, which in ((0., 'without'), (o.flow, 'with')):
                model, bits = trained(store, flow, seed, o)
                if prompts is None:
                    windows = NoteWindows(store, model.cfg.tokenizer_class(model.cfg.tokenizer), 'test', difficulties=NAMES)
                    prompts = draw_prompts(windows, o.prompts)
                found = errors_by_song(write_answers(model, prompts, 1, WritingConfig(1., 1., 1.), FreeHands, seed))
                part = np.array([found[s] for s in sorted(found)], float); rows[flow].append(part); shares[flow].append(share(part))
                said |= {f'errors_{which}': round(shares[flow][-1], 4), f'bits_{which}': round(bits, 3)}
            print(json.dumps(said), flush=True)
    off, on = (np.concatenate(rows[f]) for f in (0., o.flow))
    songs = np.tile(sorted(found), o.seeds)
    p = permutation_test(on, off, songs, lambda a, b: share(a) - share(b))
    t = corrected_t_test(np.subtract(shares[o.flow], shares[0.]), len(store.songs('train')), len(store.songs('test'))) if o.seeds > 1 else None
    ok = all(a < b for a, b in zip(shares[o.flow], shares[0.])) and p < .05
    print(json.dumps(dict(name='flow', weight=o.flow, without=round(share(off), 4), with_=round(share(on), 4), swings=int(on[:, 1].sum()), songs=len(found), p_songs=round(p, 4),
                          p_seeds=t and round(t.p, 4), t=t and round(t.statistic, 2), minutes=round((time.time() - start)/60, 1), passed=bool(ok))))
    return 0 if ok else 1


if __name__ == '__main__': sys.exit(main())
