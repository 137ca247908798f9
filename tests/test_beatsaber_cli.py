"`audioml beatsaber check` as its users meet it: tables, JSON, exit codes, and maps that were made to do harm."
import json, stat, time, zipfile
import numpy as np, pytest, torch
from audioml.audio import AudioClip
from audioml.beatsaber.beatmap import Beatmap, make_table
from audioml.beatsaber.level import Difficulty, Level, open_files, write_level

@pytest.fixture(scope='module')
def package(tmp_path_factory):
    notes = make_table('notes', beat=np.arange(8, 32.), x=1 + np.arange(24) % 2, color=np.arange(24) % 2, direction=1 - np.arange(24)//2 % 2)
    lights = make_table('events', beat=np.arange(32), type=np.arange(32) % 5, value=5)
    level = Level('Song', 'Artist', 'Mapper', 120., (Difficulty('Expert', Beatmap(notes, events=lights), njs=16.), Difficulty('Easy', Beatmap(notes[::4], events=lights), njs=10.)))
    return write_level(level, tmp_path_factory.mktemp('package')/'song.zip', AudioClip(torch.zeros(1, 44100*20), 44100))

@pytest.fixture
def parts(package):
    with open_files(package) as files: return {n: files.read(n) for n in files.sizes}

@pytest.fixture
def broken(tmp_path, parts):
    "The same map with an error (no cover), a warning (a start too early) and many of one kind (blocks off the grid)."
    d = json.loads(parts['EasyStandard.dat'])
    d['colorNotes'] = [dict(b=1, x=1, y=0, c=0, d=1)] + [dict(b=8+i, x=7, y=0, c=i % 2, d=8) for i in range(12)]
    folder = tmp_path/'broken'; folder.mkdir()
    for n, b in (parts | {'EasyStandard.dat': json.dumps(d).encode()}).items():
        if n != 'cover.png': (folder/n).write_bytes(b)
    return folder

@pytest.fixture
def check(shell_of): return shell_of('beatsaber', 'check')

def test_a_good_package(check, package):
    res = check(package, '--strict')
    assert (res.returncode, res.stderr) == (0, ''), res.stderr
    assert res.stdout.splitlines()[0] == f'{package}: Song, 2 difficulties' and res.stdout.splitlines()[-1].strip().startswith('0 errors, ')

def test_a_broken_map(check, broken):
    res = check(broken)
    lines = res.stdout.splitlines()
    assert res.returncode == 0 and not res.stderr and max(map(len, lines)) <= 100
    assert [l.strip() for l in lines if l.startswith('  ') and l[2] != ' '][:2] == ['cover.png', 'EasyStandard.dat']
    text = ' '.join(res.stdout.split())
    assert "error cover 1 no file 'cover.png'" in text and 'warning cells 12 column 7, row 0 in notes, outside of the grid (beats 8, 9, 10, 11 and 8 more)' in text and 'after 0.50 s, earlier than 1.5 (beat 1)' in text
    assert lines[-1].strip().startswith('1 error, ')
    strict = check(broken, '--strict')
    assert strict.returncode == 1 and strict.stdout == res.stdout and not strict.stderr

def test_json(check, package, broken):
    res = check(package, broken, '--json')
    assert res.returncode == 0 and not res.stderr
    good, bad = json.loads(res.stdout)
    assert good['path'] == str(package) and good['song'] == 'Song' and not [f for f in good['findings'] if f['severity'] == 'error']
    assert set(bad['findings'][0]) == {'check', 'severity', 'what', 'where', 'beat'} and sum(f['check'] == 'cells' for f in bad['findings']) == 12
    assert [f['where'] for f in bad['findings'] if f['severity'] == 'error'] == ['cover.png']
    strict = check(package, broken, '--json', '--strict')
    assert strict.returncode == 1 and strict.stdout == res.stdout

def hostile(folder):
    def made(name, *entries):
        with zipfile.ZipFile(folder/name, 'w', zipfile.ZIP_DEFLATED) as zf:
            for entry, data in entries: zf.writestr(entry, data)
        return folder/name
    link = zipfile.ZipInfo('Easy.dat'); link.external_attr = (stat.S_IFLNK | 0o777) << 16
    info = json.dumps(dict(_version='2.0.0', _songName='x', _songFilename='/etc/passwd', _difficultyBeatmapSets=[dict(_difficultyBeatmaps=[dict(_difficulty='Easy', _beatmapFilename='../secret.dat')])]))
    (folder/'secret.dat').write_text('{"version": "3.3.0"}'); (folder/'no.zip').write_bytes(b'PK\3\4'); (folder/'empty').mkdir()
    (folder/'outward').mkdir(); (folder/'outward'/'Info.dat').write_text(info)
    return [made('up.zip', ('Info.dat', info), ('../../up.dat', b'x')), made('link.zip', ('Info.dat', info), (link, b'/etc/passwd')), made('bomb.zip', ('Info.dat', bytes(100 << 20))),
            made('deep.zip', ('Info.dat', b'{"a":'*200_000)), made('list.zip', ('Info.dat', b'[1]')), made('nested.zip', ('song/Info.dat', info)), made('out.zip', ('Info.dat', info)),
            folder/'no.zip', folder/'empty', folder/'outward', folder/'secret.dat', folder/'nothing']

def test_hostile(check, tmp_path):
    "One line for each, exit code 2, nothing printed as a result, nothing written."
    folder = tmp_path/'hostile'; folder.mkdir()
    paths = hostile(folder)
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob('*'))
    one = check(paths[0])
    assert (one.returncode, one.stdout, one.stderr) == (2, '', f"audioml: {paths[0]}: '../../up.dat' leads out of the map\n")
    res = check(*paths, '--json')
    lines = res.stderr.splitlines()
    assert res.returncode == 2 and json.loads(res.stdout) == [] and 'Traceback' not in res.stderr and len(lines) == len(paths) + 1, res.stderr
    assert all(l.startswith(f'skipped {p}') for l, p in zip(lines, paths)) and lines[-1] == f'audioml: {len(paths)} of {len(paths)} maps were skipped'
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob('*')) == before and not (tmp_path.parent/'up.dat').exists()

def test_good_ones_among_bad(check, package, tmp_path):
    (tmp_path/'bad.zip').write_bytes(b'no')
    res = check(tmp_path/'bad.zip', package)
    assert res.returncode == 2 and 'Song, 2 difficulties' in res.stdout and res.stderr.splitlines()[-1] == 'audioml: 1 of 2 maps were skipped, the others are done'

def test_a_terminal_is_safe(check, parts, tmp_path):
    "A song name that would clear the screen, or cannot be encoded, is printed without doing so."
    info = json.loads(parts['Info.dat']) | dict(_songName='a\x1b[2Jb\ud800c', _levelAuthorName='y'*200)
    info['_difficultyBeatmapSets'][0]['_beatmapCharacteristicName'] = 'Odd\x1b]0;x\x07'
    with zipfile.ZipFile(tmp_path/'x.zip', 'w') as zf:
        for n, b in (parts | {'Info.dat': json.dumps(info).encode()}).items(): zf.writestr(n, b)
    for args in ((), ('--json',)):
        res = check(tmp_path/'x.zip', *args)
        assert res.returncode == 0 and '\x1b' not in res.stdout and '\x07' not in res.stdout and not res.stderr

def test_real_maps(check, data_dir):
    folders = sorted(p.parent for p in (data_dir/'beatsaber').glob('*/Info.dat'))
    res = check(*folders, '--json')
    assert res.returncode == 0 and not res.stderr
    for m in json.loads(res.stdout): assert {f['check'] for f in m['findings'] if f['severity'] == 'error'} <= {'song', 'cover'} | {f['check'] for f in m['findings'] if f['beat'] is not None}

def test_help_is_quick(shell_of):
    times = []
    for _ in range(3):
        start = time.perf_counter(); res = shell_of('--help')(); times.append(time.perf_counter() - start)
        assert res.returncode == 0 and 'Beat Saber' in res.stdout
    assert min(times) < 1.5, times
