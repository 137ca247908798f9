"`audioml piano rate` as its users meet it: what it prints, what it draws, what it leaves alone, and what it says when it cannot."
import json, shutil, subprocess, sys
from pathlib import Path
import numpy as np, pytest
from audioml.audio import AudioClip
from audioml.inference.bundle import shipped_bundle
from audioml.piano.data import embedded_clips
from audioml.piano.rate import load_rater, save_rater
from audioml.piano.synth import DIMENSIONS, LOWEST

@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
    "A rater that knows little, and takes noise for notes: what the command promises does not depend on it."
    import torch
    from audioml.models.encoder import PatchConfig
    from audioml.piano.ensemble import Ensemble, MemberConfig, audio_views, fit_member
    from audioml.piano.pretrain import PretrainConfig, Pretrainer
    from audioml.piano.rate import Rater
    torch.manual_seed(0)
    encoder = Pretrainer(PretrainConfig(PatchConfig(dim=32, n_layers=1, n_heads=2)))
    with torch.no_grad(): encoder.notes.bias[:encoder.sizes['onset']] = -4; encoder.notes.weight *= 3
    clips = embedded_clips(4, 2, 1); views = [audio_views(encoder, c.source.load()) for c in clips]
    views = {k: np.concatenate([v[k] for v in views]) for k in views[0]}
    fitted = [fit_member(MemberConfig(k, 'kernel', (k,)), views, np.array([c.ratings for c in clips])) for k in views]
    return save_rater(tmp_path_factory.mktemp('bundle')/'model', Rater(encoder, Ensemble(fitted), [.12]*19), '# Knows little')

@pytest.fixture
def shell(shell_of, bundle): return shell_of('piano', 'rate', bundle=bundle)

@pytest.fixture
def cli(cli_of, bundle): return cli_of('piano', 'rate', bundle=bundle)

@pytest.fixture(scope='module')
def played(): return embedded_clips(6, 1, 1)[5].source.load(16000)

@pytest.fixture
def take(tmp_path, played):
    "A function that saves seconds of a performance under a name."
    def save(name, seconds=6., start=0., **kw):
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        AudioClip(played.samples[:, int(16000*start):int(16000*(start+seconds))], 16000).save(tmp_path/name, **kw)
        return name
    return save

def files(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob('*') if p.is_file()}
def pictures(folder): return sorted(name for name in files(folder) if name.endswith('.png'))
def is_png(path): return path.read_bytes()[:8] == b'\x89PNG\r\n\x1a\n'

def check(ratings, names):
    "The JSON list that was promised."
    assert [r['file'] for r in ratings] == list(names)
    for r in ratings:
        assert list(r) == ['file', 'ratings', 'interval'] and tuple(r['ratings']) == tuple(r['interval']) == DIMENSIONS
        for d, v in r['ratings'].items():
            low, high = r['interval'][d]
            assert LOWEST - 1e-4 <= low <= v <= high <= 1 and low < high

# what is printed and drawn

def test_several_files_at_once(shell, take, tmp_path):
    res = shell(take('a.wav'), take('deep/b.flac', start=3.))
    assert res.returncode == 0 and not res.stderr, res.stderr
    lines = [l for l in res.stdout.splitlines() if l]
    assert lines[0].startswith('a.wav') and lines[21].startswith('deep/b.flac') and '90 %' in lines[0]
    for part in (lines[1:20], lines[22:41]): assert [l.split('  ')[1] for l in part] == list(DIMENSIONS)
    assert lines[20] == '  picture: a.png' and lines[41] == '  picture: deep/b.png' and len(lines) == 42
    assert is_png(tmp_path/'a.png') and is_png(tmp_path/'deep'/'b.png')

def test_json_is_all_of_stdout(shell, cli, take, tmp_path):
    names = [take('a.wav'), take('b.ogg', start=2.), take('album/c.WAV', start=4.)]
    res = shell(*names[:2], 'album', '--json', '-o', 'out')
    assert res.returncode == 0 and not res.stderr, res.stderr
    check(json.loads(res.stdout), names)
    assert pictures(tmp_path) == ['out/a.png', 'out/b.png', 'out/c.png']
    assert cli(*names[:2], 'album', '--json', '-o', 'out')[1] == res.stdout  # in another process, and pictures are there

def test_one_number_however_it_is_asked(cli, take):
    names = [take('a.wav'), take('b.wav', start=5.)]
    together = json.loads(cli(*names, '--json')[1])
    for name, r in zip(names, together): assert json.loads(cli(name, '--json')[1]) == [r]
    text = cli(*names)[1]
    for r in together:
        for d, v in r['ratings'].items(): assert f'{d:37}  {v:.2f}' in text or f'{d:37}  {v-1e-4:.2f}' in text

def test_picture_by_name_and_in_a_mirrored_folder(cli, take, tmp_path):
    assert cli(take('a.wav'), '-o', 'new/mine.png')[0] == 0 and is_png(tmp_path/'new'/'mine.png')
    take('in/one.wav'); take('in/more/two.wav'); take('in/more/two.flac'); (tmp_path/'in'/'cover.jpg').touch()
    code, out, err = cli('in', '-o', 'out', '--json')
    assert code == 0 and not err and pictures(tmp_path/'out') == ['more/two.flac.png', 'more/two.wav.png', 'one.png']
    check(json.loads(out), ['in/more/two.flac', 'in/more/two.wav', 'in/one.wav'])

def test_pictures_that_are_there_are_kept(cli, take, tmp_path):
    (tmp_path/'a.png').write_bytes(b'mine')
    code, out, err = cli(take('a.wav'), take('b.wav'), '--json')
    assert code == 0 and '1 of 2 pictures were there already and kept, --overwrite' in err
    check(json.loads(out), ['a.wav', 'b.wav'])
    assert (tmp_path/'a.png').read_bytes() == b'mine' and is_png(tmp_path/'b.png')
    assert cli('a.wav', '--overwrite')[0] == 0 and is_png(tmp_path/'a.png')
    (tmp_path/'named.png').write_bytes(b'old')
    assert cli('a.wav', '-o', 'named.png')[0] == 0 and is_png(tmp_path/'named.png')

def test_a_picture_that_cannot_be_written(cli, take, tmp_path):
    (tmp_path/'out').mkdir(); (tmp_path/'out'/'deep').touch()
    take('in/deep/a.wav'); take('in/b.wav')
    code, out, err = cli('in', '-o', 'out', '--json')
    assert code == 2 and 'out/deep/a.png: cannot be written' in err and 'Traceback' not in err and pictures(tmp_path/'out') == ['b.png']
    check(json.loads(out), ['in/b.wav', 'in/deep/a.wav'])

# recordings of all kinds

def test_channels_rate_and_level(cli, played, take, tmp_path):
    take('mono.wav', 20.)
    stereo = AudioClip(played.samples.repeat(2, 1)*.3, 16000)
    stereo.save(tmp_path/'stereo.wav'); stereo.resample(44100).save(tmp_path/'cd.wav'); stereo.resample(8000).save(tmp_path/'phone.wav')
    code, out, _ = cli('mono.wav', 'stereo.wav', 'cd.wav', 'phone.wav', '--json')
    mono, two, cd, phone = (np.array(list(r['ratings'].values())) for r in json.loads(out))
    assert code == 0 and np.abs(mono-two).max() < .05 and np.abs(mono-cd).max() < .1 and np.isfinite(phone).all()

def test_two_seconds(cli, take):
    code, out, err = cli(take('short.wav', 2.), '--json')
    check(json.loads(out), ['short.wav']); assert code == 0 and err.startswith('short.wav: lasts 2.0 s; ') and err.count('\n') == 1
    assert '  note: lasts 2.0 s' in cli('short.wav')[1]

def test_ten_minutes_take_no_more_memory_than_one(take, played, bundle, tmp_path):
    for name, minutes in dict(one=1, ten=10).items():
        AudioClip(played.samples.repeat(1, 1 + 60*minutes*16000//played.samples.shape[1])[:, :60*minutes*16000].repeat(2, 1), 16000).save(tmp_path/f'{name}.flac')
    code = '''import resource, sys
from audioml.piano.rate import load_rater
rater, peak, seen = load_rater(sys.argv[1], 'cpu'), [], []
for name in ('one', 'one', 'ten'):
    seen.clear(); r = rater.rate(f'{name}.flac', lambda *now: seen.append(now)); peak.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(r.note, seen[-1], peak[2]-peak[1], sep='|')'''
    res = subprocess.run([sys.executable, '-c', code, str(bundle)], cwd=tmp_path, capture_output=True, text=True)
    assert res.returncode == 0, res.stderr
    note, seen, more = res.stdout.strip().split('|')
    assert note.startswith('lasts 600.0 s') and seen == '(10, 10)' and int(more) < 60_000, f'{more} KiB more'

# bad recordings: one line, exit code 2, nothing written, nothing lost

def nan(path): import soundfile; soundfile.write(path, np.full(32000, np.nan, np.float32), 16000, subtype='FLOAT')
def silent(path): AudioClip(np.zeros((1, 48000), np.float32), 16000).save(path)
def hiss(path): AudioClip(np.random.default_rng(0).integers(-1, 2, (1, 48000))/2**15, 16000).save(path)
def click(path): AudioClip(np.ones((1, 1600), np.float32), 16000).save(path)
def cut(path): AudioClip(np.zeros((1, 48000), np.float32), 16000).save(path); path.write_bytes(path.read_bytes()[:9000])
BAD = dict(empty=(Path.touch, 'is an empty file'), text=(lambda p: p.write_text('these are my notes'), 'is not audio'), nan=(nan, 'holds NaN'), cut=(cut, 'truncated'),
           silent=(silent, 'is silent; a recording of a piano'), hiss=(hiss, 'is silent'), click=(click, 'lasts 0.10 s; 1 s of playing at least'),
           gone=(lambda p: None, 'no such file'), folder=(lambda p: (p/'inside').mkdir(parents=True), 'holds no recording'))

@pytest.mark.parametrize('name', BAD)
@pytest.mark.parametrize('as_json', [(), ('--json',)])
def test_bad_recordings(cli, tmp_path, name, as_json):
    make, says = BAD[name]; make(tmp_path/f'{name}.wav'); before = files(tmp_path)
    code, out, err = cli(f'{name}.wav', *as_json)
    assert code == 2 and err.startswith('audioml: ') and err.count('\n') == 1 and says in err and f'{name}.wav' in err
    assert files(tmp_path) == before and out in ('', '[]\n')

def test_bad_ones_among_many(cli, take, tmp_path):
    take('in/a.wav'); take('in/z.wav', start=2.)
    bad = [k for k in BAD if k not in ('gone', 'folder')]
    for k in bad: BAD[k][0](tmp_path/'in'/f'{k}.wav')
    code, out, err = cli('in', 'gone.wav', '--json')
    assert code == 2 and 'Traceback' not in err
    check(json.loads(out), ['in/a.wav', 'in/z.wav'])
    lines = err.splitlines()
    for k in bad: assert any(l.startswith(f'skipped in/{k}.wav: ') and BAD[k][1] in l for l in lines), k
    assert 'skipped gone.wav: no such file' in lines and lines[-1] == f'audioml: {len(bad)+1} of {len(bad)+3} recordings were skipped, the others are done'
    assert pictures(tmp_path) == ['in/a.png', 'in/z.png']

@pytest.mark.parametrize('args, says', [
    ('a.wav b.wav -o one.png', 'one.png: is one file for several recordings'),
    ('a.wav -o a.mid', 'a.mid: is neither a PNG file nor a folder; name a folder, or a file that ends in .png'),
    ('a.wav -o b.wav', 'b.wav: is neither a PNG file nor a folder'),
    ('a.wav x/a.wav -o out', 'out/a.wav.png: would be written by 2 recordings'),
    ('a.wav a.wav', 'a.wav.png: would be written by 2 recordings'),
    ('a.wav --device gramophone', 'device gramophone: cannot be used'),
    ('a.wav b.wav --bundle nowhere', 'nowhere: no such bundle'),
    ('a.wav --bundle a.wav', 'a.wav: is a file; the folder of a bundle'),
])
def test_bad_orders(cli, take, tmp_path, args, says):
    take('a.wav', 1.); take('b.wav', 1.); take('x/a.wav', 1.); before = files(tmp_path)
    for as_json in ((), ('--json',)):
        code, out, err = cli(*args.split(), *as_json)
        assert code == 2 and err.startswith('audioml: ') and err.count('\n') == 1 and says in err and not out
    assert files(tmp_path) == before

# bundles

def flip(folder): data = bytearray((folder/'model.safetensors').read_bytes()); data[-5] ^= 1; (folder/'model.safetensors').write_bytes(data)
def shorten(folder): (folder/'model.safetensors').write_bytes((folder/'model.safetensors').read_bytes()[:1000])
def other(folder): text = (folder/'config.json').read_text(); (folder/'config.json').write_text(text.replace('"level": 0.9', '"level": 0.99'))
def pickled(folder): (folder/'model.pkl').write_bytes(b'\x80\x04.')
def half(folder): (folder/'config.json').write_text((folder/'config.json').read_text()[:200])

@pytest.mark.parametrize('fault, says', [(flip, 'checksum'), (shorten, 'is cut off'), (other, 'config is not the one'), (pickled, 'may run any code'), (half, 'not readable JSON')])
def test_a_corrupt_bundle(cli, take, bundle, tmp_path, fault, says):
    copy = tmp_path/'copy'; shutil.copytree(bundle, copy); fault(copy)
    code, out, err = cli(take('a.wav', 1.), take('b.wav', 1.), '--bundle', copy)
    assert code == 2 and err.startswith('audioml: ') and err.count('\n') == 1 and says in err and not out and not pictures(tmp_path)

def test_a_bundle_of_another_system(cli, take):
    code, _, err = cli(take('a.wav', 1.), '--bundle', shipped_bundle('drums'))
    assert code == 2 and "is a bundle for 'drums'; one for 'piano'" in err

@pytest.mark.parametrize('args', [(), ('a.wav', '--jason'), ('a.wav', '--bundle')])
def test_wrong_usage(cli, args):
    code, out, err = cli(*args)
    assert code == 2 and 'Traceback' not in err and err and not out

def test_help(cli):
    code, out, err = cli('--help')
    assert code == 0 and out.startswith('Usage: audioml piano rate') and '--json' in out and not err

# the bundle that ships

def test_shipped_bundle(take, tmp_path, shell_of):
    if not shipped_bundle('piano').exists(): pytest.skip('no piano bundle ships yet')
    names = [take('a.wav', 15.), take('b.wav', 2.)]
    res = shell_of('piano', 'rate')(*names, '--json')
    assert res.returncode == 0, res.stderr
    check(json.loads(res.stdout), names); assert pictures(tmp_path) == ['a.png', 'b.png']
    silent(tmp_path/'silent.wav'); hiss(tmp_path/'hiss.wav')
    rater = load_rater(device='cpu')
    for name in ('silent', 'hiss'):
        with pytest.raises(ValueError, match='is silent'): rater.rate(tmp_path/f'{name}.wav')
