"Beat Saber levels from strangers: zips and folders made to do harm, files changed at random, and what is bounded while they are read."
import copy, json, os, stat, struct, subprocess, sys, zipfile
from pathlib import Path
import numpy as np, pytest, soundfile as sf, torch
from audioml.audio import AudioClip
from audioml.beatsaber.beatmap import Beatmap, make_table
from audioml.beatsaber.level import MAX_FILES, Difficulty, Level, find_maps, index_levels, memory_files, open_files, read_level, write_level, write_song
from audioml.beatsaber.validate import validate
from audioml.core import BadInput, derive_rng

@pytest.fixture(scope='module')
def clip(): return AudioClip(torch.from_numpy(derive_rng('test_level').normal(0, .1, (2, 44100*20)).astype('float32')), 44100)

@pytest.fixture(scope='module')
def level():
    notes = make_table('notes', beat=np.arange(8, 32.), x=np.arange(24) % 4, color=np.arange(24) % 2, direction=np.arange(24)//2 % 2)
    return Level('Song', 'Artist', 'Mapper', 120., (Difficulty('Easy', Beatmap(notes[::2])), Difficulty('Expert', Beatmap(notes), suggestions=('Chroma',)), Difficulty('Easy', Beatmap(notes), 'OneSaber')))

@pytest.fixture(scope='module')
def package(tmp_path_factory, level, clip): return write_level(level, tmp_path_factory.mktemp('package')/'song.zip', clip)

@pytest.fixture(scope='module')
def parts(package):
    with open_files(package) as files: return {n: files.read(n) for n in files.sizes}

def zip_of(path, entries):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as zf:
        for name, data in entries: zf.writestr(name, data)
    return path

def special(name, mode):
    info = zipfile.ZipInfo(name); info.create_system = 3; info.external_attr = mode << 16
    return info

def refused(path, why):
    with pytest.raises(BadInput) as e: read_level(path)
    assert why in str(e.value) and '\n' not in str(e.value) and str(path) in str(e.value), str(e.value)

# zips

@pytest.mark.parametrize('name, why', [('../Info2.dat', 'leads out'), ('a/../../x', 'leads out'), ('/tmp/x.dat', 'leads out'), ('C:\\x.dat', 'leads out'), ('..\\x.dat', 'leads out'), ('d:x.dat', 'leads out'),
                                       ('x\x1b[2J.dat', 'no name of a file'), ('n'*300, 'too long')])
def test_names(tmp_path, parts, name, why): refused(zip_of(tmp_path/'x.zip', [*parts.items(), (name, b'{}')]), why)

@pytest.mark.parametrize('mode, why', [(stat.S_IFLNK | 0o777, 'is a link'), (stat.S_IFIFO | 0o600, 'no regular file'), (stat.S_IFCHR, 'no regular file')])
def test_links_and_devices(tmp_path, parts, mode, why): refused(zip_of(tmp_path/'x.zip', [*parts.items(), (special('Hard.dat', mode), b'/etc/passwd')]), why)

@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_duplicates_and_encryption(tmp_path, parts, package):
    refused(zip_of(tmp_path/'same.zip', [*parts.items(), ('Info.dat', b'{}')]), 'twice')
    refused(zip_of(tmp_path/'case.zip', [*parts.items(), ('INFO.dat', b'{}')]), 'twice')
    data = bytearray(package.read_bytes())
    with zipfile.ZipFile(package) as zf: data[zf.start_dir + 8] |= 1
    (tmp_path/'locked.zip').write_bytes(data); refused(tmp_path/'locked.zip', 'is encrypted')
    with zipfile.ZipFile(tmp_path/'lzma.zip', 'w', zipfile.ZIP_LZMA) as zf: zf.writestr('Info.dat', b'{}')
    refused(tmp_path/'lzma.zip', 'compressed by method 14')

def test_too_much(tmp_path, parts):
    refused(zip_of(tmp_path/'bomb.zip', [*parts.items(), ('Hard.dat', bytes(50 << 20))]), 'would unpack into 52,428,800')
    refused(zip_of(tmp_path/'many.zip', [(f'{i}.dat', b'') for i in range(MAX_FILES + 1)]), f'holds {MAX_FILES + 1} files')
    refused(zip_of(tmp_path/'crowd.zip', [(f'{i}.dat', b'') for i in range(30_000)]), 'table of contents')
    noise = os.urandom(1 << 16)*40
    with zipfile.ZipFile(tmp_path/'large.zip', 'w') as zf:
        for i in range(105): zf.writestr(f'{i}.dat', noise)
    refused(tmp_path/'large.zip', 'would unpack into 275,251,200')
    (tmp_path/'large.zip').unlink()

def test_sizes_that_lie(tmp_path, package):
    "A zip that declares fewer bytes than unpack, or more, or other ones."
    with zipfile.ZipFile(package) as zf: info, at = zf.getinfo('EasyStandard.dat'), zf.start_dir
    raw = package.read_bytes()
    entry = raw.index(b'EasyStandard.dat', at) - 46
    for offset, value, why in ((24, 10, 'cannot be read'), (24, info.file_size + 5, 'cannot be read'), (20, 5, 'cannot be read'), (16, 1, 'cannot be read'), (42, 3, 'cannot be read')):
        data = bytearray(raw); struct.pack_into('<I', data, entry + offset, value)
        (tmp_path/'x.zip').write_bytes(data); refused(tmp_path/'x.zip', why)

def test_not_a_zip(tmp_path, package):
    data = package.read_bytes()
    for bad in (b'', b'PK', b'PK\5\6' + bytes(18), b'\0'*5000, data[:-5], data[:len(data)//2], data[len(data)//2:], data[:-22] + b'PK\6\7' + bytes(16) + data[-22:]):
        (tmp_path/'x.zip').write_bytes(bad)
        with pytest.raises(BadInput) as e: read_level(tmp_path/'x.zip')
        assert str(e.value).startswith(f'{tmp_path}/x.zip') and '\n' not in str(e.value)

def test_damaged_zips_say_so(tmp_path, package):
    "Bytes changed at random: a level or a line, nothing else."
    data, rng, read = package.read_bytes(), derive_rng('damaged zips'), 0
    with zipfile.ZipFile(package) as zf: places = [*range(zf.start_dir, len(data)), *range(0, 3000)]
    for i in range(400):
        bad = bytearray(data)
        for at in rng.choice(places, rng.integers(1, 4)): bad[at] = rng.integers(256)
        (tmp_path/'x.zip').write_bytes(bad)
        try: read_level(tmp_path/'x.zip'); read += 1
        except BadInput as e: assert '\n' not in str(e)
    assert 0 < read < 400 and [p.name for p in tmp_path.iterdir()] == ['x.zip']

def test_where_info_lies(tmp_path, parts):
    refused(zip_of(tmp_path/'deep.zip', [(f'My map/{n}', b) for n, b in parts.items()]), "Info.dat lies in a folder inside ('My map')")
    refused(zip_of(tmp_path/'none.zip', [(n, b) for n, b in parts.items() if n != 'Info.dat'] + [('BPMInfo.dat', b'{}')]), 'no Info.dat')
    lower = read_level(zip_of(tmp_path/'lower.zip', [(n.lower(), b) for n, b in parts.items()]))
    assert lower['Expert'].beatmap == read_level(zip_of(tmp_path/'beside.zip', [*parts.items(), ('sub/x.dat', b'{}')]))['Expert'].beatmap
    folder = tmp_path/'outer'/'inner'; folder.mkdir(parents=True); (folder/'Info.dat').write_bytes(parts['Info.dat'])
    refused(tmp_path/'outer', "lies in a folder inside ('inner')")

def test_memory_is_bounded(tmp_path, parts):
    "The largest zip that is let in, with as many difficulties as it may name, in a process with 1.5 GB."
    lights = b'{"version":"3.3.0","basicBeatmapEvents":[' + b','.join(b'{"b":%d,"et":1,"i":%d,"f":0.%d}' % (i, i % 13, i % 999) for i in range(400_000)) + b']}'
    row = lambda i: dict(_difficulty='Easy', _beatmapFilename=f'{i}.dat')
    info = dict(_version='2.1.0', _songName='x', _difficultyBeatmapSets=[dict(_beatmapCharacteristicName='Standard', _difficultyBeatmaps=[row(i) for i in range(100)])])
    path = zip_of(tmp_path/'x.zip', [('Info.dat', json.dumps(info)), *((f'{i}.dat', lights) for i in range(2))])
    code = f'''import resource; resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))
from audioml.beatsaber.level import read_level
from audioml.core import BadInput
try: read_level({str(path)!r})
except BadInput as e: print(e)'''
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1'))
    assert not res.stderr and "no file '2.dat'" in res.stdout, (res.stdout, res.stderr[-500:])

# folders

def test_folders(tmp_path, level, clip, parts):
    folder = write_level(level, tmp_path/'song', clip)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == parts and read_level(folder) == level.replace(**{k: getattr(read_level(folder), k) for k in ('difficulties', 'cover', 'audio')})
    (folder/'Hard.dat').symlink_to('/etc/hostname'); refused(folder, 'link out of the folder'); (folder/'Hard.dat').unlink()
    (folder/'autosaves').symlink_to('/etc'); refused(folder, 'link out of the folder'); (folder/'autosaves').unlink()
    os.mkfifo(folder/'Hard.dat'); refused(folder, 'no regular file'); (folder/'Hard.dat').unlink()
    (folder/'Hard.dat').symlink_to('nowhere.dat'); refused(folder, 'no regular file'); (folder/'Hard.dat').unlink()
    (folder/'autosaves').mkdir(); assert read_level(folder).files == {}
    for i in range(MAX_FILES): (folder/f'{i}.txt').touch()
    refused(folder, f'more than {MAX_FILES} files')

def test_nothing_half_written(tmp_path, level, clip, package):
    (tmp_path/'noise.wav').write_bytes(b'RIFF' + bytes(50)); (tmp_path/'cover.png').write_bytes(b'\x89PNG')
    for args, kw in (((level, tmp_path/'x.zip', tmp_path/'noise.wav'), {}), ((level, tmp_path/'x', tmp_path/'no.wav'), {}), ((level, tmp_path/'x.zip', clip), dict(cover=tmp_path/'cover.png')),
                     ((level.replace(difficulties=level.difficulties*2), tmp_path/'x.zip', clip), {})):
        with pytest.raises(BadInput): write_level(*args, **kw)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['cover.png', 'noise.wav']
    before = package.read_bytes()
    assert write_level(level, package, clip).read_bytes() == before  # the same bytes again
    if os.geteuid():
        (tmp_path/'closed').mkdir(mode=0o500)
        with pytest.raises(BadInput, match='cannot be written'): write_level(level, tmp_path/'closed'/'x.zip', clip)

# songs

def test_songs(tmp_path, clip):
    for name, rate, channels in (('a.wav', 22050, 1), ('b.flac', 96000, 2), ('c.mp3', 44100, 2), ('d.wav', 48000, 2)):
        AudioClip(clip.samples[:channels, :44100*5], 44100).resample(rate).save(tmp_path/name); write_song(tmp_path/name, tmp_path/'song.egg')
        info = sf.info(tmp_path/'song.egg')
        assert (info.format, info.subtype, info.channels, info.samplerate) == ('OGG', 'VORBIS', channels, 48000 if rate == 48000 else 44100) and abs(info.duration - 5) < .1
    six = AudioClip(clip.samples[:1, :44100].expand(6, -1), 44100); six.save(tmp_path/'six.wav'); write_song(tmp_path/'six.wav', tmp_path/'song.egg'); assert sf.info(tmp_path/'song.egg').channels == 1
    with pytest.raises(BadInput): write_song(tmp_path/'none.wav', tmp_path/'x.egg')

def test_a_long_song_takes_no_more_memory(tmp_path):
    with sf.SoundFile(tmp_path/'long.wav', 'w', 44100, 1) as f:
        for _ in range(6): f.write(derive_rng('long').normal(0, .1, 44100*30).astype('float32'))
    code = f'''import resource
from audioml.beatsaber.level import write_song
from audioml.audio import AudioClip
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_song({str(tmp_path/'long.wav')!r}, {str(tmp_path/'long.egg')!r})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)'''
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert sf.info(tmp_path/'long.egg').frames == 44100*180 and int(res.stdout) < 20_000, res  # kB; the song has 32 MB as float32

def test_many_comments(tmp_path, clip):
    "Metadata that fills many pages goes, the sound stays."
    with sf.SoundFile(tmp_path/'a.ogg', 'w', 44100, 2, format='OGG', subtype='VORBIS') as f:
        f.comment = 'secret '*30_000
        for x in clip.samples.T.split(65_536): f.write(x.numpy())
    write_song(tmp_path/'a.ogg', tmp_path/'b.ogg')
    assert b'secret' in (tmp_path/'a.ogg').read_bytes() and b'secret' not in (tmp_path/'b.ogg').read_bytes() and (sf.read(tmp_path/'a.ogg')[0] == sf.read(tmp_path/'b.ogg')[0]).all()

# files changed at random

ODD = [None, True, -1, 0, 1e308, 10**30, 2**31, .5, '', 'x'*1000, '\ud800', '../../etc/passwd', 'Info.dat', [], {}, [[]], [{}], {'a': None}, 'NaN', -0., [1]*50, '\x00']

def mutate(d, rng):
    "One place of a JSON value changed."
    d = copy.deepcopy(d); at, path = d, None
    while True:
        keys = list(at) if isinstance(at, dict) else range(len(at))
        if not len(keys): return d
        key = keys[rng.integers(len(keys))]
        if isinstance(at[key], (dict, list)) and at[key] and rng.random() < .8: at = at[key]; continue
        kind = rng.integers(4)
        if kind == 0: at[key] = copy.deepcopy(ODD[rng.integers(len(ODD))])
        elif kind == 1: del at[key]
        elif isinstance(at, dict) and kind == 2: at['_more'] = at.pop(key)
        else: at[key] = [at[key]] if rng.random() < .5 else str(at[key])
        return d

V4 = {'Info.dat': dict(version='4.0.0', song=dict(title='Two', author='Nobody'), environmentNames=['E'], coverImageFilename='c.png', colorSchemes=[{}], customData=dict(a=1),
                       audio=dict(songFilename='s.ogg', bpm=100, audioDataFilename='Audio.dat', songDuration=9), difficultyBeatmaps=[dict(characteristic='Standard', difficulty='Hard', beatmapAuthors=dict(mappers=['me']),
                       noteJumpMovementSpeed=14, noteJumpStartBeatOffset=0, beatmapDataFilename='Hard.dat', lightshowDataFilename='L.dat', customData=dict(suggestions=['Chroma'], difficultyLabel='x'))]),
      'Audio.dat': dict(version='4.0.0', songFrequency=44100, bpmData=[dict(si=0, ei=211680, sb=0, eb=8)]), 'Hard.dat': dict(version='4.0.0', colorNotes=[dict(b=4)], colorNotesData=[dict(x=1)]),
      'L.dat': dict(version='4.0.0', basicEvents=[dict(b=1)], basicEventsData=[dict(t=1, i=5, f=1)])}
V1 = {'Info.dat': dict(songName='Two', songSubName='s', authorName='me', beatsPerMinute=100, coverImagePath='c.jpg', oneSaber=False, difficultyLevels=[dict(difficulty='Easy', difficultyRank=1, jsonPath='E.json', audioPath='s.ogg')]),
      'E.json': dict(_version='1.5.0', _noteJumpSpeed=11, _notes=[dict(_time=4, _type=0)])}

def fuzz(n, parts, seed):
    "Levels with one file mutated: (read, refused). Whatever is read can also be judged."
    texts, read = {n: json.loads(b) for n, b in parts.items() if n.endswith(('.dat', '.json'))}, 0
    for i in range(n):
        rng = derive_rng('fuzz level', seed, i)
        name = 'Info.dat' if rng.random() < .6 else list(texts)[rng.integers(len(texts))]
        d = texts[name]
        for _ in range(rng.integers(1, 4)): d = mutate(d, rng)
        data = json.dumps(d).encode()
        if rng.random() < .1: data = data[:rng.integers(len(data))]
        files = memory_files(parts | {name: data})
        try: validate(files); read += 1
        except BadInput as e: assert '\n' not in str(e)
    return read, n - read

@pytest.mark.parametrize('which', ['v2', 'v4', 'v1'])
def test_mutated_levels(parts, which):
    small = {n: b for n, b in parts.items() if n != 'song.egg'} | {'song.egg': b'OggS'}
    files = dict(v2=small, v4={n: json.dumps(d).encode() for n, d in V4.items()}, v1={n: json.dumps(d).encode() for n, d in V1.items()})[which]
    read, bad = fuzz(700, files, which)
    assert read > 50 and bad > 50

# the index

def test_index(tmp_path, level, parts):
    songs = tmp_path/'songs'; (tmp_path/'song.egg').write_bytes(parts['song.egg'])
    for i in range(6):
        one = level.replace(song=f'Song {i}')
        write_level(one, songs/('deep' if i % 2 else '')/(f'{i}.zip' if i % 3 else f'{i}'), tmp_path/'song.egg')
    (songs/'junk.zip').write_bytes(b'no'); zip_of(songs/'bomb.ZIP', [('Info.dat', bytes(30 << 20))]); (songs/'notes.txt').touch()
    (songs/'loop').symlink_to(songs); (songs/'0'/'EasyStandard.dat').write_bytes(b'{')
    table, bad = index_levels(songs, progress=False)
    for n_workers in (1, 2, 3):
        other, other_bad = index_levels(songs, n_workers, progress=False)
        assert table.equals(other) and bad.equals(other_bad)
    assert [Path(p).name for p in bad.path] == ['0', 'bomb.ZIP', 'junk.zip'] and len(table) == 15 and table.hash.nunique() == 5 and len(find_maps(songs)) == 8
    assert table.notes.tolist() == [12, 24, 24]*5 and table.seconds.round(6).tolist() == [11, 11.5, 11.5]*5 and (table.notes_per_second - table.notes/table.seconds).abs().max() < 1e-9
    (tmp_path/'bare').mkdir(); empty, none = index_levels(tmp_path/'bare', 2, progress=False)
    assert len(empty) == len(none) == 0 and (empty.dtypes == table.dtypes).sum() >= 12 and list(empty) == list(table)
    with pytest.raises(BadInput, match='is no folder'): index_levels(tmp_path/'nothing')
