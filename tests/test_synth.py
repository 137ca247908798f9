"What is made from a seed is a pure function of it: in a process that made other things before it sounds the same."
import json, subprocess, sys

MAKE = """import hashlib, json, sys
from audioml.beatsaber.synth import STYLES, embedded_level
from audioml.codec.synth import synth_sounds
from audioml.drums.synth import SynthConfig, synth_song
from audioml.groove.synth import SYNTH_STYLES, synth_pattern
from audioml.midi import render, render_performance
from audioml.piano.synth import random_performance
makers = dict(drums=lambda i: synth_song(SynthConfig(duration=6.), i)[0], groove=lambda i: render(synth_pattern(list(SYNTH_STYLES)[i], i, 2).notes), piano=lambda i: render_performance(random_performance(i, 6.)),
              codec=lambda i: synth_sounds(i + 1)[i][1].load(), beatsaber=lambda i: embedded_level(i, list(STYLES)[2*i], 20., ['Easy'])[1])
todo = [(system, i) for system in makers for i in range(5)][::int(sys.argv[1])]
print(json.dumps({f'{system} {i}': hashlib.sha256(makers[system](i).samples.numpy().tobytes()).hexdigest() for system, i in todo}))
"""

def test_songs_do_not_depend_on_what_was_made_before():
    started = [subprocess.Popen([sys.executable, '-c', MAKE, order], stdout=subprocess.PIPE, text=True) for order in ('1', '-1')]
    forth, back = (json.loads(p.communicate()[0]) for p in started)
    assert len(set(forth.values())) == len(forth) == 25
    assert {k for k in forth if forth[k] != back[k]} == set()
