"""How much faster do two processes train than one? Prints a line of JSON for each kind of system.

A drum model on windows and a groove model on tokens train on items that are in memory: one process with one thread, one process
with two threads, and two processes with a thread each, whose batches of half the size make up the same batches. The turns alternate
and the fastest counts, so that neighbours on the machine do not. `ratio` is two processes against the better of the other two: on a computer
with two cores both have the same to work with. `shared` is the part of the step that goes into gathering, sums and waiting.
"""
import json, os, sys, tempfile, time
from pathlib import Path
os.environ.update(OMP_NUM_THREADS='2', AUDIOML_PROGRESS='off')
import torch, torch.distributed as dist
from fastai.callback.core import Callback
from audioml.drums.data import Embedded, drum_store
from audioml.drums.learner import drum_learner
from audioml.drums.model import DrumModelConfig, PRESETS
from audioml.drums.synth import SynthConfig
from audioml.audio import LogMelConfig
from audioml.groove.data import embedded_songs, groove_store, styles_of
from audioml.groove.learner import groove_learner
from audioml.groove.model import model_config
from audioml.groove.tokenizer import GrooveTokenizer, GrooveTokenizerConfig
from audioml.training.learner import TrainConfig, fit, make_dls, make_learner
from audioml.training.processes import in_processes
from audioml.windowing import SlidingWindowConfig

STEPS, BATCH, ROUNDS, WARM = 8, 8, 2, 2


class Clock(Callback):
    "Seconds from step `WARM` to the last; of them in collective operations."
    order = 1000
    def before_fit(self):
        self.spent, self.step = 0., 0
        for name in ('all_reduce', 'all_gather', 'broadcast'): setattr(dist, name, self.timed(getattr(dist, name)))

    def timed(self, f):
        def g(*args, **kwargs):
            t = time.perf_counter(); out = f(*args, **kwargs); self.spent += time.perf_counter() - t
            return out
        return g

    def after_batch(self):
        if not self.training: return
        self.step += 1
        if self.step == WARM: self.began, self.before = time.perf_counter(), self.spent
        if self.step == STEPS: self.seconds, self.waited = time.perf_counter() - self.began, self.spent - self.before


def drums(folder):
    store = drum_store(folder/'drums', [(f's{i}', Embedded(i, SynthConfig(seed=1, duration=10.)), ('train', 'valid')[i == 4]) for i in range(5)], LogMelConfig())
    return drum_learner(store, SlidingWindowConfig(window_length_seconds=5., windows_per_song=16), DrumModelConfig(n_classes=5, encoder=PRESETS['small'].replace(dropout=0.)))


def groove(folder):
    songs = [s for split in ('train', 'valid') for s in embedded_songs(24, split=split)]
    store = groove_store(folder/'groove', songs, GrooveTokenizer(GrooveTokenizerConfig()))
    return groove_learner(store, model_config(styles_of(store), 'tiny', dropout=0.), row_length=512)


def step_time(learn, bs, threads):
    "Seconds a step, and the part of it that is shared."
    torch.set_num_threads(threads)
    n = STEPS*BATCH
    ds, valid = learn.dls.train.dataset, learn.dls.valid.dataset
    items = [ds[0, i % len(ds)] for i in range(n)]
    mine = make_learner(make_dls(items, [valid[0, 0]], bs=bs, device='cpu'), learn.model, learn.loss_func)
    clock = Clock()
    fit(mine, TrainConfig(epochs=1, lr=1e-4, metric='train_loss'), cbs=[clock])
    return clock.seconds/(STEPS - WARM), clock.waited/clock.seconds


def main():
    worst = 9.
    torch.set_num_threads(1) # a process that has used threads must not fork
    with tempfile.TemporaryDirectory() as d:
        for name, make in dict(windows=drums, tokens=groove).items():
            learn, times, shared = make(Path(d)), {}, []
            for _ in range(ROUNDS):
                for threads in (1, 2): times.setdefault(f'one_{threads}', []).append(in_processes(lambda: step_time(learn, BATCH, threads), 1)[0][0])
                two, part = in_processes(lambda: step_time(learn, BATCH//2, 1))[0]
                times.setdefault('two', []).append(two); shared.append(part)
            best = {k: BATCH/min(v) for k, v in times.items()}
            ratio = best['two']/max(best['one_1'], best['one_2'])
            worst = min(worst, ratio)
            print(json.dumps(dict(name=f'distributed_{name}', batch=BATCH, items_s_one_thread=round(best['one_1'], 1), items_s_two_threads=round(best['one_2'], 1),
                                  items_s_two_processes=round(best['two'], 1), against_one_thread=round(best['two']/best['one_1'], 2), ratio=round(ratio, 2), shared=round(min(shared), 3), target=.9)), flush=True)
    return 0 if worst >= .9 else 1


if __name__ == '__main__': sys.exit(main())
