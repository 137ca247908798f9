"""Mutated difficulties, Infos and zips through the readers: `python tests/beatsaber_fuzz.py CASES [FIRST]` in a process of its own.
Each case is a pure function of its number. Only `BadInput` may come out, nothing may be written, and memory is bounded."""
import copy, gzip, io, json, os, resource, sys, tempfile, time, traceback, warnings, zipfile, zlib
from pathlib import Path
import numpy as np
from audioml.core import BadInput, derive_rng
from audioml.beatsaber.beatmap import V3_KEYS, read_beatmap, write_beatmap
from audioml.beatsaber.flow import check_flow
from audioml.beatsaber.level import memory_files
from audioml.beatsaber.validate import check_level, validate

MEMORY = 3 << 29 # bytes that the process may grow by: 64 MB of JSON become up to a gigabyte of Python objects

# What is mutated: small files of every version by hand, and the beginnings of the real ones.
V1 = dict(_version='1.5.0', _beatsPerMinute=120, _noteJumpSpeed=10, _notes=[dict(_time=4, _lineIndex=1, _lineLayer=0, _type=0, _cutDirection=1)], _obstacles=[], _events=[dict(_time=1, _type=1, _value=5)])
V2 = dict(_version='2.6.0', _notes=[dict(_time=k/2, _lineIndex=k % 4, _lineLayer=k % 3, _type=(0, 1, 3)[k % 3], _cutDirection=k % 9, _customData=dict(_color=[1, 0, 0], _fake=k % 5 == 0)) for k in range(8)],
          _obstacles=[dict(_time=2, _lineIndex=0, _type=k, _duration=1, _width=1, _lineLayer=0, _height=5) for k in range(3)],
          _sliders=[dict(_colorType=0, _headTime=1, _headLineIndex=1, _headLineLayer=0, _headControlPointLengthMultiplier=1, _headCutDirection=1, _tailTime=2, _tailLineIndex=2, _tailLineLayer=1, _tailControlPointLengthMultiplier=1, _tailCutDirection=0, _sliderMidAnchorMode=0)],
          _events=[dict(_time=k, _type=t, _value=k, _floatValue=1.) for k, t in enumerate((0, 1, 5, 8, 9, 12, 14, 15, 100, 10))], _waypoints=[dict(_time=1, _lineIndex=1, _lineLayer=1, _offsetDirection=1)],
          _specialEventsKeywordFilters=dict(_keywords=[]), _customData=dict(_BPMChanges=[dict(_BPM=200, _time=4)], _bookmarks=[]))
V3 = dict(version='3.3.0', colorNotes=[dict(b=k/2, x=k % 4, y=k % 3, c=k % 2, d=k % 9, a=0, customData=dict(color=[1, 0, 0, 1])) for k in range(8)], bombNotes=[dict(b=1, x=1, y=1)], obstacles=[dict(b=1, d=1, x=0, y=0, w=1, h=5)],
          sliders=[dict(b=1, c=0, x=1, y=0, d=1, mu=1, tb=2, tx=2, ty=1, tc=0, tmu=1, m=0)], burstSliders=[dict(b=1, c=0, x=1, y=0, d=1, tb=1.5, tx=2, ty=0, sc=4, s=.5)], basicBeatmapEvents=[dict(b=k, et=k, i=k, f=1) for k in range(6)],
          colorBoostBeatmapEvents=[dict(b=1, o=True)], bpmEvents=[dict(b=0, m=120), dict(b=4, m=240)], rotationEvents=[dict(b=1, e=0, r=15)], waypoints=[dict(b=1, x=1, y=1, d=0)], lightColorEventBoxGroups=[dict(b=1, g=0, e=[])],
          basicEventTypesWithKeywords=dict(d=[]), useNormalEventsAsCompatibleEvents=True, customData=dict(fakeColorNotes=[dict(b=1)]))
V4 = dict(version='4.1.0', colorNotes=[dict(b=k/2, r=0, i=k % 2) for k in range(6)], colorNotesData=[dict(x=1, y=0, c=0, d=1, a=0), dict(x=2, y=0, c=1, d=1, a=0)], bombNotes=[dict(b=1, i=0)], bombNotesData=[dict(x=1, y=2)],
          obstacles=[dict(b=1, i=0)], obstaclesData=[dict(d=1, x=0, y=0, w=1, h=5)], arcs=[dict(hb=1, tb=2, hi=0, ti=1, ai=0)], arcsData=[dict(m=1, tm=1, a=0)], chains=[dict(hb=1, tb=1.5, i=0, ci=0)], chainsData=[dict(tx=2, ty=0, c=4, s=.5)],
          spawnRotations=[dict(b=1, i=0)], spawnRotationsData=[dict(t=0, r=15)])
LIGHTS4 = dict(version='4.0.0', basicEvents=[dict(b=1, i=0)], basicEventsData=[dict(t=1, i=5, f=1)], colorBoostEvents=[dict(b=1, i=0)], colorBoostEventsData=[dict(b=1)], waypoints=[dict(b=1, i=0)], waypointsData=[dict(x=1, y=1, d=0)])
AUDIO4 = dict(version='4.0.0', songFrequency=44100, songSampleCount=441000, bpmData=[dict(si=0, ei=88200, sb=0, eb=4), dict(si=88200, ei=441000, sb=4, eb=20)])
INFO2 = dict(_version='2.1.0', _songName='a', _songSubName='', _songAuthorName='b', _levelAuthorName='c', _beatsPerMinute=120, _songTimeOffset=0, _shuffle=0, _shufflePeriod=.5, _previewStartTime=1, _previewDuration=2, _songFilename='song.egg',
             _coverImageFilename='cover.png', _environmentName='DefaultEnvironment', _environmentNames=['DefaultEnvironment'], _colorSchemes=[dict(useOverride=False, colorScheme=dict(colorSchemeId='x'))], _customData=dict(_editors=dict(a=1)),
             _difficultyBeatmapSets=[dict(_beatmapCharacteristicName='Standard', _difficultyBeatmaps=[dict(_difficulty=n, _difficultyRank=r, _beatmapFilename=f, _noteJumpMovementSpeed=10, _noteJumpStartBeatOffset=0,
             _customData=dict(_difficultyLabel='x', _suggestions=['Chroma'], _requirements=[])) for n, r, f in (('Easy', 1, 'V2.dat'), ('Expert', 7, 'V3.dat'))])])
INFO4 = dict(version='4.0.0', song=dict(title='a', subTitle='', author='b'), audio=dict(songFilename='song.egg', songDuration=10., audioDataFilename='Audio.dat', bpm=120, lufs=0, previewStartTime=0, previewDuration=1), songPreviewFilename='song.egg',
             coverImageFilename='cover.png', environmentNames=['DefaultEnvironment'], colorSchemes=[], difficultyBeatmaps=[dict(characteristic='Standard', difficulty='Hard', beatmapAuthors=dict(mappers=['me'], lighters=[]), environmentNameIdx=0,
             beatmapColorSchemeIdx=0, noteJumpMovementSpeed=10, noteJumpStartBeatOffset=0, beatmapDataFilename='V4.dat', lightshowDataFilename='Lights.dat')])
INFO1 = dict(songName='a', songSubName='', authorName='b', beatsPerMinute=120, previewStartTime=1, previewDuration=2, coverImagePath='cover.jpg', environmentName='DefaultEnvironment',
             difficultyLevels=[dict(difficulty='Easy', difficultyRank=1, audioPath='song.ogg', jsonPath='V1.dat', offset=0)])
FILES = {f'{n}.dat': d for n, d in dict(V1=V1, V2=V2, V3=V3, V4=V4, Lights=LIGHTS4, Audio=AUDIO4).items()}

def real_files():
    "Real difficulties, cut to a few objects a list, and one as a whole; real Infos."
    root = os.environ.get('AUDIOML_DATA')
    if not root: return [], []
    paths = sorted((Path(root)/'beatsaber').rglob('*.dat'))
    read = lambda p: json.loads(p.read_text('utf-8-sig'))
    cut = lambda d: {k: v[:30] if isinstance(v, list) else v for k, v in d.items()}
    maps, infos = [p for p in paths if p.name not in ('Info.dat', 'BPMInfo.dat')], [p for p in paths if p.name == 'Info.dat']
    return [cut(read(p)) for p in maps], [read(p) for p in infos]

VALUES = [None, True, False, 0, -1, 1, 2, .5, -.5, 1e308, -1e308, 1e-320, 1e9, 2**31, -2**31 - 1, 2**53, 2**63, 2**64, 10**400, -10**4000, '', '0', 'a', '\ud800', '\0', '../../etc/passwd', 'x'*10_000, [], {}, [[]], [{}], {'': {}}, [None], [1, 2, 3],
          {'b': 1}, {'_time': 1}, 'Easy', '3.0.0', '2.0.0', '4.0.0', '1.0.0', '3', '.', '3.' + '9'*400, '99999.0', float('nan'), float('inf'), -float('inf'), 1000, 1360, 0.1 + 0.2]

def places(d, found=None):
    "Every (container, key) of a tree."
    found = [] if found is None else found
    for k, v in d.items() if isinstance(d, dict) else enumerate(d):
        found.append((d, k))
        if isinstance(v, (dict, list)): places(v, found)
    return found

def deep(rng, v):
    for _ in range(int(rng.choice([3, 60, 400]))): v = [v] if rng.random() < .5 else {'a': v}
    return v

def mutate_tree(rng, d):
    d = copy.deepcopy(d)
    for _ in range(rng.integers(1, 5)):
        at = places(d)
        if not at: break
        box, k = at[rng.integers(len(at))]; kind = rng.integers(9)
        if kind < 3: box[k] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
        elif kind == 3: del box[k]
        elif kind == 4:
            other, j = at[rng.integers(len(at))] # of another place
            box[k] = copy.deepcopy(other[j])
        elif kind == 5: box[k] = deep(rng, box[k])
        elif kind == 6 and isinstance(box, list): box.extend([box[k]]*int(rng.integers(1, 200)))
        elif kind == 7 and isinstance(box, dict): box[str(rng.choice(['customData', '_customData', 'version', '_version', '_notes', 'colorNotes', 'b', 'content', k.upper()]))] = box[k]
        elif isinstance(box[k], (int, float)) and not isinstance(box[k], bool): box[k] = float(rng.normal())*10.**int(rng.integers(-9, 12)) if rng.random() < .5 else int(rng.integers(-2**40, 2**40))
    return d

def dump(rng, d):
    "JSON text, now and then with a key that is there twice."
    sys.set_int_max_str_digits(0)
    s = json.dumps(d, ensure_ascii=bool(rng.random() < .8)); sys.set_int_max_str_digits(4300)
    if rng.random() < .1 and isinstance(d, dict) and d:
        k = list(d)[rng.integers(len(d))]
        s = s[:-1] + f', {json.dumps(k)}: {json.dumps(VALUES[rng.integers(25)])}' + '}' if len(s) > 2 else s
    return s.encode('utf8', 'surrogatepass')

def mutate_bytes(rng, data):
    kind, n = rng.integers(13), len(data); i, j = sorted(rng.integers(0, n + 1, 2).tolist())
    if kind == 0: return data[:i]
    if kind == 1: x = bytearray(data); [x.__setitem__(int(rng.integers(n)), int(rng.integers(256))) for _ in range(rng.integers(1, 20) if n else 0)]; return bytes(x)
    if kind == 2: return data[:i] + data[j:]
    if kind == 3: return data[:i] + data[i:j]*3 + data[j:]
    if kind == 4: return data[:i] + rng.bytes(int(rng.integers(1, 50))) + data[i:]
    if kind == 5: return rng.bytes(int(rng.integers(0, 300)))
    if kind == 6: return data.decode('utf8', 'replace').encode(str(rng.choice(['utf-16', 'utf-32', 'utf-8-sig'])))
    if kind == 7: return data[:i] + rng.choice([b'['*100_000, b'{"a":'*100_000, b'1'*100_000, b'1e999', b'-', b'NaN', b'\\ud800', b'"', b',', b'0x1', b'/**/', b'\xff']) + data[i:]
    if kind == 8: return gzip.compress(data)
    if kind == 9: z = gzip.compress(data); return z[:rng.integers(2, len(z))]
    if kind == 10: z = bytearray(gzip.compress(data)); z[int(rng.integers(2, len(z)))] ^= 1 << int(rng.integers(8)); return bytes(z)
    if kind == 11: return b'\x1f\x8b' + rng.bytes(int(rng.integers(0, 100)))
    return gzip.compress(gzip.compress(data))

def squeeze(start, block, times, end=b''):
    "`start`, many times `block`, `end`, as gzip."
    z = zlib.compressobj(1, zlib.DEFLATED, 31)
    return b''.join([z.compress(start), *(z.compress(block*10_000) for _ in range(times//10_000)), z.compress(end), z.flush()])

def bombs():
    "Small files that want to be large: they are refused, or read within the bound."
    notes = b'{"version":"3.0.0","colorNotes":['
    return [squeeze(b'', bytes(1000), 500_000), squeeze(notes, b'{},', 20_000_000, b'{}]}'), squeeze(b'', b'[', 20_000_000), squeeze(notes, b'{"b":1},', 200_000, b'{}]}'), squeeze(b'{"version":"3.0.0","x":[', b'"ab",', 3_000_000, b'1]}'),
            squeeze(b'{}', b'  ', 30_000_000), squeeze(b'{"version":"3.0.0","x":"', b'aaa', 10_000_000, b'"}'), squeeze(b'{"version":"3.0.0","x":[', b'[],', 20_000_000, b'1]}')]

def tidy(m):
    "A map without the unknown data that has the name of a column: version 3 has no place for it."
    def of(kind):
        t = getattr(m, kind).copy(); names = set(V3_KEYS[kind].values())
        t['extra'] = np.fromiter(({k: v for k, v in (e or {}).items() if k not in names} or None for e in t['extra']), object, len(t))
        return t
    return m.replace(**{kind: of(kind) for kind in V3_KEYS})

def check_difficulty(data, lightshow=None, audio=None, bpm=120.):
    "Read; what was read can be checked, and written, and is read again as the same."
    m = read_beatmap(data, bpm, lightshow=lightshow, audio=audio, where='x.dat')
    if len(m.notes) < 2000: check_flow(m, 'Expert', 16.)
    try: text = write_beatmap(m)
    except BadInput: return
    again = read_beatmap(text, m.bpm, where='again.dat')
    assert tidy(again) == tidy(m), 'written and read again, it is another map'

def zip_of(rng, files):
    f = io.BytesIO()
    with zipfile.ZipFile(f, 'w', zipfile.ZIP_DEFLATED) as z:
        for n, d in files.items(): z.writestr(n, d)
    return f.getvalue()

class Cases:
    def __init__(self, folder):
        maps, infos = real_files()
        self.maps, self.infos, self.folder = [V1, V2, V3, V4]*3 + maps, [INFO1, INFO2, INFO4]*2 + infos, Path(folder)
        self.bombs = bombs(); self.plain = {n: json.dumps(d).encode() for n, d in FILES.items()}

    def __call__(self, i):
        "What case `i` does: a function without arguments."
        rng = derive_rng('fuzz', i)
        if i < 2000 and i % 250 == 0: bomb = self.bombs[i//250]; return lambda: check_difficulty(bomb)
        def noisy(d):
            try: return mutate_bytes(rng, dump(rng, d if rng.random() < .5 else mutate_tree(rng, d))) if rng.random() < .4 else dump(rng, mutate_tree(rng, d))
            except RecursionError: return b'{"a":'*1000 # deeper than these functions can go themselves
        kind = rng.integers(10)
        if kind < 5: data = noisy(self.maps[rng.integers(len(self.maps))]); return lambda: check_difficulty(data)
        if kind == 5: v4, lights, audio = (noisy(d) if rng.random() < .6 else json.dumps(d).encode() for d in (V4, LIGHTS4, AUDIO4)); return lambda: check_difficulty(v4, lights, audio)
        if kind == 6: bpm = VALUES[rng.integers(len(VALUES))]; data = dump(rng, self.maps[rng.integers(len(self.maps))]); return (lambda: check_difficulty(data, bpm=bpm)) if isinstance(bpm, float) else (lambda: check_difficulty(data))
        info = noisy(self.infos[rng.integers(len(self.infos))])
        files = self.plain | {str(rng.choice(['Info.dat', 'info.dat', 'INFO.DAT', 'info.json'])): info}
        if rng.random() < .3: n = str(rng.choice(list(self.plain))); files[n] = noisy(FILES[n])
        if kind < 9: return lambda: validate(memory_files(files))
        z = zip_of(rng, files); path = self.folder/'case.zip'; path.write_bytes(mutate_zip(rng, z)); return lambda: check_level(path)

def mutate_zip(rng, z):
    "A zip whose directory or bytes are changed, mostly where its structure is."
    x, spots = bytearray(z), [k for k in range(len(z) - 4) if z[k:k+2] == b'PK'] or [0]
    for _ in range(rng.integers(1, 6)):
        k = int(spots[rng.integers(len(spots))]) + int(rng.integers(0, 60)) if rng.random() < .7 else int(rng.integers(len(x)))
        if k < len(x): x[k] = int(rng.choice([0, 1, 0xff, 0x7f, int(rng.integers(256))]))
    return bytes(x[:rng.integers(len(x))]) if rng.random() < .1 else bytes(x)

WRITES = ('os.mkdir', 'os.rename', 'os.remove', 'os.rmdir', 'os.link', 'os.symlink', 'os.truncate', 'os.chmod', 'shutil.', 'subprocess.Popen', 'os.system', 'os.exec', 'os.fork', 'socket.', 'tempfile.')
watched = False

def audit(event, args):
    if not watched: return
    if event == 'open' and (isinstance(args[1], str) and set(args[1]) & set('wax+') or isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) or event.startswith(WRITES):
        raise RuntimeError(f'{event} {args!r:.100}')

def main(n, first=0):
    global watched
    warnings.simplefilter('error', RuntimeWarning) # of NumPy: an overflow is a number that should have been refused
    sys.addaudithook(audit); faults, good, slow, start = [], 0, (0., 0), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        cases = Cases(folder)
        used = int(Path('/proc/self/statm').read_text().split()[0])*resource.getpagesize() if sys.platform == 'linux' else 0
        if used: resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,)*2)
        for i in range(first, first + n):
            case, t = cases(i), time.monotonic()
            try: watched = True; case(); good += 1
            except BadInput as e:
                if '\n' in str(e) or len(str(e)) > 1000: faults.append((i, f'a message of {len(str(e))} characters: {str(e)[:100]!r}'))
            except BaseException as e: faults.append((i, ''.join(traceback.format_exception(e, limit=-3))[-900:]))
            finally: watched = False
            slow = max(slow, (time.monotonic() - t, i))
            if len(faults) >= 20: break
    print(json.dumps(dict(cases=n, good=good, faults=faults, slowest=slow, seconds=time.monotonic() - start, peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)))

if __name__ == '__main__': main(*map(int, sys.argv[1:]))
