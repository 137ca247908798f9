"""From a song to a package, and what makes it quick. Prints one line of JSON.

Three things, each with the models that ship and in this order:
`song_s` is what `audioml beatsaber automap` takes for three minutes of music (an embedded song) at one difficulty: from the start of
the process to the zip. `listen_s` to `package_s` are its parts, once more in this process, where nothing has to be imported.
`cached_over_uncached` is how many times quicker a search with eight beams for the four fullest bars is when the decoder keeps what it has read
(`beam_search`) than when it reads everything again for each token (`use_cache=False`): the same window, two bars of context, memory and `MapGrammar`, `same` output.
`ear_grows` is the time of the state-space ear for 12 minutes of features over that for 3, 4 when it is linear in the length; whole songs in
one window, so that nothing but the ear decides. `attention_grows` is the same for the ear with attention, whose blocks look at their
neighbours alone; `full_attention_grows` for one layer of PyTorch's own transformer of the same width, which looks at everything.
The best of several rounds counts; everything runs on two threads.
"""
import json, os, subprocess, sys, tempfile, time
from pathlib import Path

THREADS, SECONDS, DIFFICULTY, BEAMS, ROUNDS = 2, 180., 'Expert', 8, 2
os.environ['OMP_NUM_THREADS'] = str(THREADS)
import numpy as np, soundfile as sf, torch
from audioml.audio import AudioClip
from audioml.core import derive_seed
from audioml.beatsaber.automap import SHARES, STAGES, MapConfig, Writer, bells, listen, load_automapper, place_onsets, write_blocks
from audioml.beatsaber.data import condition_row
from audioml.beatsaber.decode import MapGrammar, WritingConfig, hands_at, plan_bars
from audioml.beatsaber.model import OnsetModel, onset_model_config
from audioml.beatsaber.structure import FPS
from audioml.beatsaber.synth import draw_song, render_song
from audioml.inference.bundle import shipped_bundle
from audioml.inference.decode import beam_search

MINUTES = 3, 12
TARGETS = dict(song_s=45., cached_over_uncached=10., ear_grows=5.) # seconds and growth at most; the ratio at least


def clock(f, rounds=ROUNDS):
    "Shortest of several rounds, s, and what the last one gave."
    times = []
    for _ in range(rounds):
        start = time.perf_counter(); out = f(); times.append(time.perf_counter() - start)
    return min(times), out


def command(song, path):
    "Seconds of a process that maps a song."
    words = ['beatsaber', 'automap', str(song), '--difficulty', DIFFICULTY, '-o', str(path), '--overwrite']
    subprocess.run([sys.executable, '-c', 'from audioml.cli import main; main()', *words], check=True, capture_output=True)


def parts(mapper, clip, path):
    "Seconds of the parts of the same, with everything imported."
    marks = [(0, time.perf_counter())]
    made = mapper.map(clip, MapConfig((DIFFICULTY,)), 'Song', progress=lambda done, n: marks.append((done/n, time.perf_counter())))
    ends = [max(t for share, t in marks if share <= end + 1e-3) for end in np.cumsum([0, *SHARES.values()])]
    start = time.perf_counter(); made.save(path)
    return dict(zip(SHARES, np.diff(ends))) | dict(package=time.perf_counter() - start)


def fullest(mapper, clip):
    "What `beam_search` is given for the four bars of a song that have the most onsets, after the bars before them."
    song = listen(mapper.onsets, clip, ('ExpertPlus',)); onsets = place_onsets(song); beats, sure = onsets['ExpertPlus']
    beatmap = write_blocks(mapper.notes, song, onsets, MapConfig(('ExpertPlus',)))['ExpertPlus']
    w = Writer(mapper.notes, song, WritingConfig())
    starts = w.per*np.arange(w.n_past, beats[-1]//w.per + 1); start = starts[np.argmax(np.searchsorted(beats, starts + w.step) - np.searchsorted(beats, starts))]
    memory, inside = w.memory(start, bells(song, beats, sure), np.zeros((w.slots.n, 0), np.float32))
    given = mapper.notes.given(*(torch.as_tensor(np.asarray(x))[None] for x in (condition_row('ExpertPlus'), memory, inside)), guided=True)
    plan = plan_bars(w.tokenizer.cfg, song.timing, beats, start, w.n_bars, hands=hands_at(beatmap, start))
    return mapper.notes.decoder, w.prompt(beatmap, start), MapGrammar(w.tokenizer, [plan]), given


def search(decoder, prompt, grammar, given, use_cache):
    with torch.inference_mode(): return beam_search(decoder, prompt, BEAMS, grammar=grammar.copy(), guidance=1.5, use_cache=use_cache, **given)


def ears():
    "Name -> a function of features (1, n, channels) that hears them in one window."
    torch.manual_seed(0)
    heard = lambda model: lambda x: model.frames(x, torch.ones(x.shape[:2], dtype=torch.bool))
    scan, attention = (OnsetModel(onset_model_config('small', scan=s)).eval() for s in (True, False)); e = scan.cfg.encoder
    layer = torch.nn.TransformerEncoderLayer(e.dim, e.n_heads, 2*e.dim, batch_first=True, norm_first=True, dropout=0.)
    full, into = torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval(), torch.nn.Linear(e.n_mels + scan.cfg.n_structure, e.dim)
    return dict(ear=heard(scan), attention=heard(attention), full_attention=lambda x: full(into(x[:, ::e.stride]))), e.n_mels + scan.cfg.n_structure


def growth(f, channels, rounds):
    "Seconds for 3 and for 12 minutes."
    with torch.inference_mode():
        f(torch.randn(1, 1024, channels))
        return [clock(lambda: f(torch.randn(1, int(60*m*FPS), channels)), rounds)[0] for m in MINUTES]


def main():
    absent = [k for k, kind in STAGES.items() if not shipped_bundle(kind.system).is_dir()]
    if absent: print(f'bench_automap needs the bundles that ship: {", ".join(absent)} not there', file=sys.stderr); return 2
    torch.set_num_threads(THREADS)
    mapper, clip = load_automapper(device='cpu'), render_song(draw_song(derive_seed('bench_automap') % 2**31, 'pop', SECONDS))
    with tempfile.TemporaryDirectory() as folder:
        song, path = Path(folder)/'song.flac', Path(folder)/'song.zip'; sf.write(song, clip.samples[0].numpy(), clip.sample_rate)
        song_s, _ = clock(lambda: command(song, path), 1); took = parts(mapper, AudioClip.load(song), path)
    window = fullest(mapper, clip)
    quick, ours = clock(lambda: search(*window, True)); slow, theirs = clock(lambda: search(*window, False), 1)
    same = [ids.tolist() for ids, _ in ours] == [ids.tolist() for ids, _ in theirs] and np.allclose([p for _, p in ours], [p for _, p in theirs], atol=1e-3)
    found, channels = ears(); times = {k: growth(f, channels, 1 if k == 'full_attention' else ROUNDS) for k, f in found.items()}
    figures = dict(song_s=song_s, song_length_s=clip.duration, **{f'{k}_s': v for k, v in took.items()}, context_tokens=len(window[1]), tokens=len(ours[0][0]), cached_s=quick, uncached_s=slow, cached_over_uncached=slow/quick,
                   **{f'{k}_{m}_minutes_s': t for k, pair in times.items() for m, t in zip(MINUTES, pair)}, **{f'{k}_grows': b/a for k, (a, b) in times.items()})
    print(json.dumps(dict(name='automap') | {k: float(f'{v:.4g}') for k, v in figures.items()} | dict(same=bool(same), targets=TARGETS)))
    return int(not same or figures['song_s'] > TARGETS['song_s'] or figures['cached_over_uncached'] < TARGETS['cached_over_uncached'] or figures['ear_grows'] > TARGETS['ear_grows'])


if __name__ == '__main__': sys.exit(main())
