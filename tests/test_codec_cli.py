"`audioml codec upsample` as its users meet it: what it writes, what it leaves alone, what it takes, and what it says when it cannot."
import subprocess, sys
import numpy as np, pytest, torch
from audioml.audio import AudioClip
from audioml.codec.model import CODEC_PRESETS, Codec, Upsampler, save_upsampler, widen
from audioml.codec.synth import synth_sound
from audioml.inference.bundle import shipped_bundle

@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
    "A model that has learnt nothing: what the command promises does not depend on it."
    torch.manual_seed(0)
    codec = Codec(CODEC_PRESETS['small'].replace(encoder_dim=4, decoder_dim=32)).eval()
    return save_upsampler(tmp_path_factory.mktemp('bundle')/'model', Upsampler.of(codec, widen(codec)), '# Untrained')

@pytest.fixture
def shell(shell_of, bundle): return shell_of('codec', 'upsample', bundle=bundle)

@pytest.fixture
def cli(cli_of, bundle): return cli_of('codec', 'upsample', bundle=bundle)

@pytest.fixture(scope='module')
def talk(): return synth_sound('speech', 1, 1.5)

def test_a_file_of_its_own(shell, talk, tmp_path):
    talk.resample(24000).save(tmp_path/'speech24k.wav'); before = (tmp_path/'speech24k.wav').read_bytes()
    res = shell('speech24k.wav', '-o', 'out48k.wav')
    assert (res.returncode, res.stdout, res.stderr) == (0, 'out48k.wav: 48 kHz\n', '')
    out = AudioClip.load(tmp_path/'out48k.wav')
    assert (out.sample_rate, out.n_channels) == (48000, 1) and out.duration == pytest.approx(1.5, abs=1e-3) and out.rms > 0
    assert (tmp_path/'speech24k.wav').read_bytes() == before

def test_the_same_twice_and_noise_by_seed(cli, talk, tmp_path):
    talk.resample(16000).save(tmp_path/'a.flac')
    for name, more in dict(one=(), two=(), five=('--noise', 5), again=('--noise', 5), none=('--noise', -1)).items(): assert cli('a.flac', '-o', f'{name}.flac', *more)[0] == 0
    one, two, five, again, none = (AudioClip.load(tmp_path/f'{n}.flac').samples for n in ('one', 'two', 'five', 'again', 'none'))
    assert torch.equal(one, two) and torch.equal(five, again) and len({x.sum().item() for x in (one, five, none)}) == 3

def test_a_folder(cli, talk, tmp_path):
    (tmp_path/'in/more').mkdir(parents=True)
    for name in ('a.wav', 'more/b.ogg'): talk.resample(24000).save(tmp_path/'in'/name)
    (tmp_path/'in/notes.wav').write_text('no sound')
    code, out, err = cli('in', '-o', 'out')
    assert code == 2 and 'out/a.48k.wav' in out and 'out/more/b.48k.wav' in out and 'skipped in/notes.wav: is not audio' in err
    assert sorted(p.name for p in (tmp_path/'out').rglob('*') if p.is_file()) == ['a.48k.wav', 'b.48k.wav']
    first = (tmp_path/'out/a.48k.wav').read_bytes()
    code, out, err = cli('out') # nothing but what was written: no recordings
    assert code == 2 and 'holds no recording' in err and (tmp_path/'out/a.48k.wav').read_bytes() == first

def test_what_is_there_stays(cli, talk, tmp_path):
    talk.resample(24000).save(tmp_path/'a.wav'); (tmp_path/'a.48k.wav').write_bytes(b'mine')
    code, out, err = cli('a.wav')
    assert code == 2 and 'is there already' in err and (tmp_path/'a.48k.wav').read_bytes() == b'mine'
    assert cli('a.wav', '--overwrite')[0] == 0 and AudioClip.load(tmp_path/'a.48k.wav').sample_rate == 48000
    code, _, err = cli('a.wav', '-o', 'a.wav')
    assert code == 2 and 'would replace a file that is read' in err

@pytest.mark.parametrize('rate', [8000, 11025, 16000, 22050, 44100, 48000, 88200, 96000, 192000])
@pytest.mark.parametrize('channels', [1, 2])
def test_any_rate(cli, talk, tmp_path, rate, channels):
    clip = AudioClip(talk.resample(rate).samples[:, :rate//2].repeat(channels, 1), rate); clip.save(tmp_path/'a.wav')
    assert cli('a.wav', '-o', 'b.wav')[0] == 0
    out = AudioClip.load(tmp_path/'b.wav')
    assert (out.sample_rate, out.n_channels) == (48000, channels) and out.duration == pytest.approx(clip.duration, abs=1/8000)
    if channels == 2: assert torch.equal(out.samples[0], out.samples[1])

@pytest.mark.parametrize('name, x', dict(hundredth=np.ones((1, 240))*.1, sample=np.ones((1, 1))*.1, silence=np.zeros((2, 9000)), loud=np.ones((1, 9000))*np.sin(np.arange(9000))*4).items())
def test_edges(cli, tmp_path, name, x):
    AudioClip(x, 24000).save(tmp_path/'a.wav', 'FLOAT')
    assert cli('a.wav', '-o', 'b.wav')[0] == 0
    out = AudioClip.load(tmp_path/'b.wav')
    assert out.samples.shape == (len(x), 2*x.shape[1]) and out.peak <= 1 and (out.peak == 0) == (name == 'silence')

BAD = dict(empty=(lambda p: p.touch(), 'is an empty file'), text=(lambda p: p.write_text('no sound in here'), 'is not audio'),
           nan=(lambda p: AudioClip(np.full((1, 32000), np.nan, np.float32), 16000).save(p, 'FLOAT'), 'holds NaN'),
           late=(lambda p: AudioClip(np.r_[np.zeros(16000*45), np.nan][None].astype('f4'), 16000).save(p, 'FLOAT'), 'holds NaN'),
           cut=(lambda p: (AudioClip(np.zeros((1, 48000), np.float32), 16000).save(p), p.write_bytes(p.read_bytes()[:9000])), 'truncated'),
           gone=(lambda p: None, 'no such file'))

@pytest.mark.parametrize('name', BAD)
def test_bad_recordings(cli, tmp_path, name):
    make, says = BAD[name]; make(tmp_path/'a.wav')
    code, out, err = cli('a.wav', '-o', 'b.wav')
    assert code == 2 and out == '' and says in err and err.count('\n') == 1 and not (tmp_path/'b.wav').exists()

def test_bad_bundles(cli, talk, tmp_path):
    talk.save(tmp_path/'a.wav'); (tmp_path/'b').mkdir()
    for where, says in (('gone', 'no such bundle'), ('b', 'config.json is missing'), ('a.wav', 'is a file')):
        code, _, err = cli('a.wav', '--bundle', where)
        assert code == 2 and says in err and err.count('\n') == 1

def test_memory_is_flat(tmp_path, bundle):
    noise = (np.random.default_rng(0).standard_normal((1, 8000*30))*.1).astype(np.float32)
    for name, times in dict(short=1, long=10).items(): AudioClip(np.tile(noise, times), 8000).save(tmp_path/f'{name}.flac')
    code = '''import resource, sys, torch
from audioml.codec.upsample import *
torch.set_num_threads(1); model, peak = open_upsampler(sys.argv[1], 'cpu'), []
for name in ('short', 'short', 'long'): upsample_file(model, f'{name}.flac', 'out.wav'); peak.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peak[2] - peak[1])'''
    res = subprocess.run([sys.executable, '-c', code, str(bundle)], cwd=tmp_path, capture_output=True, text=True)
    assert res.returncode == 0, res.stderr
    assert int(res.stdout) < 60_000, f'{res.stdout} KiB more for ten times the length'
    assert AudioClip.load(tmp_path/'out.wav', 299.).duration == pytest.approx(1.)

def test_shipped_bundle(talk, tmp_path, shell_of):
    if not shipped_bundle('codec').exists(): pytest.skip('no codec bundle ships yet')
    talk.resample(24000).save(tmp_path/'a.wav')
    res = shell_of('codec', 'upsample')('a.wav')
    assert res.returncode == 0, res.stderr
    out, low = AudioClip.load(tmp_path/'a.48k.wav'), talk.resample(24000).resample(48000)
    treble = lambda c: torch.stft(c.samples[0], 2048, window=torch.hann_window(2048), return_complex=True).abs()[560:].square().sum().item()
    assert treble(out) > 10*treble(low)

def test_real_recordings(data_dir, shell, tmp_path):
    files = sorted((data_dir/'audio48').glob('*.wav'))
    for f in files:
        clip = AudioClip.load(f, 0, 3); clip.resample(24000).save(tmp_path/f.name)
    res = shell(*[f.name for f in files], '-o', 'out')
    assert res.returncode == 0, res.stderr
    for f in files:
        out, clip = AudioClip.load(tmp_path/'out'/f.with_suffix('.48k.wav').name), AudioClip.load(f, 0, 3)
        assert out.samples.shape == clip.samples.shape and out.sample_rate == 48000
