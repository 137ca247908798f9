"""Transcribing a recording, file to MIDI, with the bundle that ships. Prints one line of JSON.

A 3-minute and a 30-minute song are rendered from a drum pattern. Each measurement runs in a process of its own on two threads, so that
peak memory is that of one song. `real_time_factor` is time divided by length, from the file to the written MIDI file, model loaded; the
best of several rounds counts. `cold_s` is the whole command for the short song, with start of Python and loading of the model.
`memory_growth` compares the additional peak memory of the long song with the additional samples (float32, mono).
"""
import json, os, resource, subprocess, sys, tempfile, time
from pathlib import Path

SHORT, LONG, SAMPLE_RATE, ROUNDS, THREADS = 3, 30, 44100, 8, 2
TARGETS = dict(real_time_factor=.02, memory_growth=1., overlap_cost=1.5)


def make_song(path, minutes):
    "A soft-rock pattern with some change in it, as a WAV file."
    import numpy as np
    from audioml.midi import make_notes, render
    rng, step = np.random.default_rng(0), .3125  # eighths at 96 beats a minute
    n = int(30/step) + 1
    pitch = [p for i in range(n) for p in (42, (36, 42, 38, 42)[i % 4])]
    clip = render(make_notes(np.repeat(np.arange(n)*step, 2), pitch, rng.integers(40, 120, 2*n)), SAMPLE_RATE, tail=0)
    bar = clip.samples[:, :30*SAMPLE_RATE]
    type(clip)(bar.repeat(1, 2*minutes)/bar.abs().max(), SAMPLE_RATE).save(path)


def measure(path, overlap, rounds):
    "In a process of its own: the best time and the peak memory of transcribing `path`."
    import torch
    torch.set_num_threads(THREADS)
    from audioml.drums.transcribe import load_transcriber
    from audioml.midi import write_midi
    transcriber, times = load_transcriber(device='cpu'), []
    for _ in range(rounds):
        t = time.perf_counter()
        write_midi(transcriber.transcribe(path, overlap=overlap), Path(path).with_suffix('.mid'))
        times.append(time.perf_counter()-t)
    print(json.dumps(dict(seconds=min(times), peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024)))


def run(*args):
    env = os.environ | dict(OMP_NUM_THREADS=str(THREADS))
    return json.loads(subprocess.run([sys.executable, __file__, *map(str, args)], env=env, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main():
    with tempfile.TemporaryDirectory() as tmp:
        short, long = Path(tmp)/'short.wav', Path(tmp)/'long.wav'
        make_song(short, SHORT); make_song(long, LONG)
        base, plain = run(short, .25, ROUNDS), run(short, 0, ROUNDS)
        once, big = run(short, .25, 1), run(long, .25, 1)
        t = time.perf_counter()
        subprocess.run([sys.executable, '-c', 'from audioml.cli import main; main()', 'drums', 'transcribe', short, '-o', Path(tmp)/'cold.mid'], check=True, capture_output=True)
        cold = time.perf_counter()-t
    audio_mb = (LONG-SHORT)*60*SAMPLE_RATE*4/2**20
    result = dict(name='transcribe', real_time_factor=base['seconds']/(SHORT*60), overlap_cost=base['seconds']/plain['seconds'],
                  memory_growth=(big['peak_mb']-once['peak_mb'])/audio_mb, short_s=base['seconds'], long_s=big['seconds'], cold_s=cold,
                  short_peak_mb=once['peak_mb'], long_peak_mb=big['peak_mb'])
    result = {k: v if isinstance(v, str) else round(v, 4) for k, v in result.items()} | dict(targets=TARGETS)
    print(json.dumps(result))
    return int(any(result[k] > limit for k, limit in TARGETS.items()))


if __name__ == '__main__':
    if len(sys.argv) > 1: measure(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
    else: sys.exit(main())
