"Hostile files: every one gives `BadInput` with one line, or the outcome that is defined for it."
import os, struct, subprocess, sys
import numpy as np, pytest, soundfile as sf, torch
from hypothesis import HealthCheck, given, settings, strategies as st
from audioml.audio import AudioClip, load_audio, read_span
from audioml.core import BadInput, derive_rng, map_items
from audioml.midi import make_notes, read_midi, render, write_midi

SR = 44100
relaxed = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

def refused(f, path, *words):
    "`f(path)` raises BadInput, in one line that names the file."
    with pytest.raises(BadInput) as e: f(path)
    text = str(e.value)
    assert '\n' not in text and str(path) in text and all(w in text for w in words), text
    return text

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "Three seconds of stereo noise in each format."
    folder = tmp_path_factory.mktemp('whole'); x = derive_rng(0).standard_normal((2, 3*SR)).astype(np.float32)*.1
    return {s: AudioClip(torch.from_numpy(x), SR).save(folder/f'song.{s}') for s in ('wav', 'flac', 'ogg', 'mp3')}

@pytest.mark.parametrize('suffix', ['wav', 'flac', 'ogg', 'mp3'])
@pytest.mark.parametrize('part', [.999, .9, .5, .1, .02, .002])
def test_truncated(whole, tmp_path, suffix, part, capfd):
    b = whole[suffix].read_bytes(); p = tmp_path/f'cut.{suffix}'; p.write_bytes(b[:int(len(b)*part)])
    refused(load_audio, p)
    assert capfd.readouterr().err == '' # nor do the decoders speak up

@pytest.mark.parametrize('suffix', ['wav', 'flac', 'ogg', 'mp3'])
def test_whole(whole, tmp_path, suffix):
    clip = load_audio(whole[suffix])
    assert clip.samples.shape == (1, 3*SR) and clip.sample_rate == SR and .05 < clip.rms < .09
    p = tmp_path/'nameless'; p.write_bytes(whole[suffix].read_bytes()) # the bytes decide, not the name
    assert load_audio(p).duration == 3

def test_not_files(tmp_path):
    refused(load_audio, tmp_path/'missing.wav', 'no such file'); refused(load_audio, tmp_path, 'is not a file')
    (tmp_path/'empty.wav').touch(); refused(load_audio, tmp_path/'empty.wav', 'empty file')

@pytest.mark.parametrize('suffix', ['wav', 'flac'])
def test_no_samples(tmp_path, suffix):
    p = tmp_path/f'none.{suffix}'; sf.write(p, np.zeros((0, 2)), SR); refused(load_audio, p)

@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_not_finite(tmp_path, value):
    x = np.zeros(1000, np.float32); x[777] = value; p = tmp_path/'nan.wav'; sf.write(p, x, SR, subtype='FLOAT')
    refused(load_audio, p, 'NaN or infinite')

@pytest.mark.parametrize('content', [b'hello world '*50, b'RIFF', b'RIFF\0\0\0\0WAVE', b'RIFF\xff\xff\xff\xffWAVEdata\xff\xff\xff\xff', b'fLaC'*9, b'OggS'*30,
                                     b'ID3'+b'\0'*5000, b'ID3\4\0\0\x7f\x7f\x7f\x7f', b'\xff\xfb', b'\xff\xfb'*4000, b'FORM'*20, b'\0'*100_000,
                                     b'PK\3\4'+b'x'*500, b'\x89PNG\r\n', b'MThd\0\0\0\6\0\1\0\1\1\0'])
def test_not_audio(tmp_path, content):
    for name in ('x.wav', 'x.mp3', 'x.flac', 'x.ogg'):
        p = tmp_path/name; p.write_bytes(content); refused(load_audio, p)

@relaxed
@given(magic=st.sampled_from([b'', b'RIFF', b'OggS', b'fLaC', b'ID3', b'\xff\xfb\x90\x64']), junk=st.binary(max_size=4000))
def test_random_bytes(tmp_path, magic, junk):
    p = tmp_path/'junk.wav'; p.write_bytes(magic + junk)
    try: assert torch.isfinite(load_audio(p).samples).all() # some luck is allowed, noise is not
    except BadInput as e: assert '\n' not in str(e)

@relaxed
@given(data=st.data())
def test_damaged_bytes(whole, tmp_path, data):
    "Bytes changed anywhere: either a finite recording or a refusal."
    suffix = data.draw(st.sampled_from(list(whole))); b = bytearray(whole[suffix].read_bytes()[:30_000])
    for _ in range(data.draw(st.integers(1, 5))): b[data.draw(st.integers(0, 200 if data.draw(st.booleans()) else len(b)-1))] = data.draw(st.integers(0, 255))
    p = tmp_path/f'damaged.{suffix}'; p.write_bytes(b)
    try: assert torch.isfinite(load_audio(p).samples).all()
    except BadInput as e: assert '\n' not in str(e)

def test_defined_outcomes(tmp_path):
    "Silence, one sample, eight channels and 192 kHz load."
    sf.write(tmp_path/'silent.wav', np.zeros((SR, 2)), SR); assert load_audio(tmp_path/'silent.wav', 22050).peak == 0
    sf.write(tmp_path/'one.wav', np.ones(1)*.5, SR); assert load_audio(tmp_path/'one.wav').samples.shape == (1, 1)
    eight = np.ones((19200, 8))*np.arange(8)/16; sf.write(tmp_path/'eight.wav', eight, 192_000, subtype='FLOAT')
    clip = load_audio(tmp_path/'eight.wav', SR)
    assert clip.samples.shape == (1, 4410) and abs(clip.samples[0, 2000] - 3.5/16) < 1e-3
    assert load_audio(tmp_path/'eight.wav', mono=False).samples.shape == (8, 19200)

def test_streamed_wav(tmp_path):
    "A WAV written to a pipe promises 2**32-1 bytes: it is whole."
    sf.write(p := tmp_path/'pipe.wav', np.full(1000, .25), SR); b = bytearray(p.read_bytes())
    i = b.index(b'data') + 4; b[i:i+4] = b[4:8] = struct.pack('<I', 0xFFFFFFFF); p.write_bytes(b)
    assert load_audio(p).samples.shape == (1, 1000)

def seconds(path): return load_audio(path).duration
def sound(notes): return render(notes).samples.numpy()

def test_bad_among_good(tmp_path, whole):
    "A bad file among many is skipped and named, in this process and in workers."
    (tmp_path/'bad.wav').write_text('no'); files = [whole['wav'], tmp_path/'bad.wav', whole['mp3']]
    for n_workers in (0, 2):
        got = []; skipped = map_items(seconds, files, n_workers, lambda i, r: got.append((i, r)))
        assert got == [(0, 3.), (2, 3.)] and [i for i, _ in skipped] == [1]

# MIDI

@pytest.fixture(scope='module')
def song(tmp_path_factory):
    rng = derive_rng(1); n = 60
    notes = make_notes(rng.uniform(0, 10, n), rng.integers(20, 100, n), rng.integers(1, 128, n), .2, rng.integers(0, 3, n), rng.random(n) < .5)
    return write_midi(notes, tmp_path_factory.mktemp('midi')/'song.mid').read_bytes()

def midi_outcome(p):
    try: read_midi(p)
    except BadInput as e: assert '\n' not in str(e) and str(p) in str(e)

@relaxed
@given(head=st.sampled_from([b'', b'MThd', b'MThd\0\0\0\6\0\1\0\1\1\xe0', b'MThd\0\0\0\6\0\1\0\1\1\xe0MTrk\0\0\0\x20']), junk=st.binary(max_size=300))
def test_midi_random_bytes(tmp_path, head, junk): (p := tmp_path/'x.mid').write_bytes(head + junk); midi_outcome(p)

@relaxed
@given(data=st.data())
def test_midi_damaged_bytes(song, tmp_path, data):
    b = bytearray(song)
    for _ in range(data.draw(st.integers(1, 4))): b[data.draw(st.integers(0, len(b)-1))] = data.draw(st.integers(0, 255))
    (p := tmp_path/'x.mid').write_bytes(b); midi_outcome(p)

def test_midi_truncated(song, tmp_path):
    for n in range(0, len(song)-1, 7): (p := tmp_path/'cut.mid').write_bytes(song[:n]); refused(read_midi, p)

def test_midi_storm(song, tmp_path):
    "Twenty thousand damaged files in a process of their own, which must live: symusic alone dies of some."
    (tmp_path/'song.mid').write_bytes(song)
    code = '''
import sys; import numpy as np, symusic
from audioml.midi import check_midi_bytes
song, rng = open(sys.argv[1], 'rb').read(), np.random.default_rng(0)
for _ in range(20_000):
    b = bytearray(song)
    for i in rng.integers(0, len(b), rng.integers(1, 4)): b[i] = rng.integers(256)
    try: check_midi_bytes(bytes(b)); s = symusic.Score.from_midi(bytes(b)); [t.notes.numpy() for t in s.tracks]
    except (ValueError, RuntimeError): pass
print('alive')'''
    r = subprocess.run([sys.executable, '-c', code, str(tmp_path/'song.mid')], capture_output=True, text=True)
    assert r.returncode == 0 and r.stdout.strip() == 'alive', r.stderr[-500:]

def test_midi_not_files(tmp_path):
    refused(read_midi, tmp_path/'missing.mid', 'no such file'); refused(read_midi, tmp_path, 'is not a file')
    (tmp_path/'empty.mid').touch(); refused(read_midi, tmp_path/'empty.mid', 'MIDI header')
    smpte = b'MThd\0\0\0\6\0\0\0\1\xe7\x28' + b'MTrk\0\0\0\4\0\xff\x2f\0'
    (tmp_path/'smpte.mid').write_bytes(smpte); refused(read_midi, tmp_path/'smpte.mid', 'ticks a beat')

def test_render_in_workers():
    "The synthesizer works in forked processes, and says the same there."
    notes = [make_notes([0, .2], [36, 38 + i]) for i in range(4)]; here = [sound(n) for n in notes]; there = []
    assert not map_items(sound, notes, 2, lambda i, r: there.append(r))
    assert all((a == b).all() for a, b in zip(here, there))

@pytest.mark.skipif(not os.environ.get('AUDIOML_DATA'), reason='AUDIOML_DATA is not set')
def test_real_midi():
    "Every stroke of real files is found, when mido says it is. (pretty_midi drops notes without length.)"
    import mido; from itertools import accumulate; from pathlib import Path
    data = Path(os.environ['AUDIOML_DATA'])
    for p in sorted(data.glob('groove_midi/**/*.mid'))[::150] + sorted(data.glob('asap_midi/**/*.mid'))[::400]:
        messages = list(mido.MidiFile(p)); times = accumulate(m.time for m in messages)
        theirs = [t for t, m in zip(times, messages) if m.type == 'note_on' and m.velocity]; ours = read_midi(p).onset.to_numpy()
        assert len(ours) == len(theirs) and np.abs(ours-np.array(theirs)).max() < 1e-6, p

@pytest.mark.parametrize('rate', (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 192000, 44101))
def test_spans_are_parts_of_the_whole(tmp_path, rate):
    "For rates with and without a simple ratio, at 48 and 24 kHz, anywhere, both ends too."
    path, rng = tmp_path/'a.wav', derive_rng(rate)
    sf.write(path, .3*rng.standard_normal((rate//2 + 77, 2)), rate, subtype='FLOAT')
    for new in (48000,) if rate == 44101 else (48000, 24000):
        whole = load_audio(path, new, mono=False).samples
        for start, n in [(whole.shape[1]-1, 1), *((int(rng.integers(whole.shape[1])), int(rng.integers(1, 9000))) for _ in range(1 if rate == 44101 else 8)), (0, 1), (0, whole.shape[1])][:2 if rate == 44101 else None]:
            part = read_span(path, start, n, new)
            assert part.shape == (2, n) and torch.allclose(part, torch.nn.functional.pad(whole, (0, n))[:, start:start+n], atol=1e-5)
