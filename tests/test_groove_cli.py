"The groove commands as their users meet them: what they write, what they leave alone, and what they say when they cannot."
import re
from pathlib import Path
import numpy as np, pandas as pd, pytest
from audioml.audio import AudioClip
from audioml.groove.generate import load_generator, save_generator, to_general_midi
from audioml.groove.model import GrooveModel, model_config
from audioml.inference.bundle import shipped_bundle
from audioml.midi import GM_DRUMS, TD11, Pattern, TICKS_PER_QUARTER, make_notes, read_pattern, write_pattern

@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
    "A model that knows nothing: what the commands promise does not depend on it."
    import torch
    torch.manual_seed(0)
    model = GrooveModel(model_config(('funk', 'hip hop', 'reggae'), 'tiny', n_layers=1))
    return save_generator(tmp_path_factory.mktemp('bundle')/'model', model, '# Untrained')

@pytest.fixture
def shell(shell_of, bundle): return shell_of('groove', bundle=bundle)

@pytest.fixture
def cli(cli_of, bundle): return cli_of('groove', bundle=bundle)

@pytest.fixture
def song(tmp_path):
    "Two bars that somebody wrote, with a shaker, a cowbell and a bass, in 96 beats a minute."
    drums = make_notes([0, 0, .5, 1, 1, 2, 2.5, 3, 4, 5, 6, 7, 7.5], [36, 42, 42, 38, 42, 36, 42, 38, 36, 38, 36, 38, 46], 80, .25)
    more = make_notes([0, 1.3, 4], [70, 56, 70], [30, 40, 50], .25)
    bass = make_notes([0, 4], [36, 43], 90, 2., program=33, is_drum=False)
    pattern = Pattern(pd.concat([drums, more, bass]).sort_values(['onset', 'pitch'], kind='stable', ignore_index=True), 96.)
    write_pattern(pattern, tmp_path/'song.mid')
    return read_pattern(tmp_path/'song.mid')

def files(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob('*') if p.is_file()}
def keys(notes): return list(zip((notes.onset*TICKS_PER_QUARTER).round().astype(int), notes.pitch, notes.velocity, notes.is_drum))

# generate

def test_generate_one(shell, tmp_path):
    args = ('generate', '--style', 'funk', '--bars', 2, '--tempo', 96, '--meter', '3/4', '-o', 'new/funk.mid')
    res = shell(*args)
    assert res.returncode == 0, res.stderr
    pattern = read_pattern(tmp_path/'new'/'funk.mid')
    assert re.fullmatch(rf'new/funk.mid: {len(pattern.notes)} notes\n', res.stdout) and not res.stderr
    assert abs(pattern.tempo-96) < 1e-3 and pattern.meter == (3, 4) and pattern.n_bars <= 2 and pattern.notes.is_drum.all() and set(pattern.notes.pitch) <= set(GM_DRUMS)
    before = files(tmp_path)
    assert shell(*args).returncode == 0 and files(tmp_path) == before  # another process, the same seed: the same bytes

def test_seed_and_kit(cli, tmp_path):
    for name, more in dict(a=('--seed', 1), b=('--seed', 2), c=('--seed', 1, '--kit', 'td11')).items():
        assert cli('generate', '--bars', 6, '-o', f'{name}.mid', *more)[0] == 0
    a, b, c = (read_pattern(tmp_path/f'{k}.mid') for k in 'abc')
    assert not a.notes.equals(b.notes) and keys(to_general_midi(c).notes) == keys(a.notes)
    assert set(a.notes.pitch) <= set(TD11.values()) and set(c.notes.pitch) - set(TD11.values())

def test_a_folder_of_patterns_with_recordings(cli, tmp_path):
    args = ('generate', '--style', 'hip hop', '--bars', 1, '--number', 3, '--seed', 5, '-o', 'out', '--wav')
    code, out, _ = cli(*args)
    assert code == 0 and [l.split(':')[0] for l in out.splitlines()] == [f'[{i}/3] out/hip_hop_00{i}.mid' for i in (1, 2, 3)]
    before = files(tmp_path/'out')
    assert sorted(before) == [f'hip_hop_00{i}.{k}' for i in (1, 2, 3) for k in ('mid', 'wav')]
    clip = AudioClip.load(tmp_path/'out'/'hip_hop_001.wav')
    assert 0 < clip.peak <= 1 and clip.duration > 1
    for k in ('mid', 'wav'): (tmp_path/'out'/f'hip_hop_002.{k}').unlink()
    (tmp_path/'out'/'hip_hop_003.mid').write_bytes(b'mine')
    code, out, _ = cli(*args)
    assert code == 0 and '2 of 3 files are there already' in out
    assert files(tmp_path/'out') == before | {'hip_hop_003.mid': b'mine'}  # the second is made again as it was, yours is yours

def test_one_of_a_folder_is_the_one_of_its_seed(cli, tmp_path):
    assert cli('generate', '--bars', 1, '--number', 3, '--seed', 5, '-o', 'out')[0] == 0
    assert cli('generate', '--bars', 1, '--seed', 7, '-o', 'alone.mid')[0] == 0
    assert (tmp_path/'alone.mid').read_bytes() == (tmp_path/'out'/'pattern_003.mid').read_bytes()

def test_a_recording_that_is_there_is_kept(cli, tmp_path):
    (tmp_path/'take.wav').write_bytes(b'precious')
    code, _, err = cli('generate', '--bars', 1, '-o', 'take.mid', '--wav')
    assert code == 2 and 'take.wav: is there already' in err and files(tmp_path) == {'take.wav': b'precious'}
    assert cli('generate', '--bars', 1, '-o', 'take.mid', '--wav', '--overwrite')[0] == 0 and len(files(tmp_path)['take.wav']) > 100

# continue and humanize

def test_continue_keeps_what_was_there(cli, song, tmp_path):
    assert cli('continue', 'song.mid', '-o', 'longer.mid', '--bars', 2)[0] == 0
    longer = read_pattern(tmp_path/'longer.mid')
    old = [k for k in keys(longer.notes) if k[0] < 8*TICKS_PER_QUARTER - TICKS_PER_QUARTER/8]
    assert set(keys(song.notes)) <= set(keys(longer.notes)) and sorted(old) == sorted(keys(song.notes)) and longer.n_bars <= 4
    assert abs(longer.tempo-96) < 1e-3 and set(longer.notes.pitch[longer.notes.is_drum]) <= set(GM_DRUMS)

def test_humanize_moves_the_drums_alone(cli, song, tmp_path):
    for name, strength in dict(none=0, some=.5, full=1).items(): assert cli('humanize', 'song.mid', '-o', f'{name}.mid', '--strength', strength, '--seed', 3)[0] == 0
    none, some, full = (read_pattern(tmp_path/f'{k}.mid').notes for k in ('none', 'some', 'full'))
    assert keys(none) == keys(song.notes)
    other = lambda n: keys(n[~n.is_drum | n.pitch.isin([56, 70])])
    assert other(full) == other(song.notes) and keys(full) != keys(song.notes)
    assert sorted(full.pitch) == sorted(song.notes.pitch)
    snares = lambda n: n[n.pitch == 38].velocity.to_numpy(float)
    assert (np.abs(snares(some) - (snares(none)+snares(full))/2) <= 1).all()

def test_one_bad_file_among_many(cli, song, tmp_path):
    (tmp_path/'in'/'deep').mkdir(parents=True)
    write_pattern(song, tmp_path/'in'/'a.mid'); write_pattern(song, tmp_path/'in'/'deep'/'b.MID')
    (tmp_path/'in'/'cut.mid').write_bytes((tmp_path/'song.mid').read_bytes()[:80])
    write_pattern(Pattern(song.notes, 96., (9, 16)), tmp_path/'in'/'odd.mid')
    code, out, err = cli('humanize', 'in', '-o', 'out')
    assert code == 2 and 'Traceback' not in err and sorted(files(tmp_path/'out')) == ['a.mid', 'deep/b.mid']
    assert err.count('skipped') == 3 and 'cut.mid' in err and 'meter' in err and '2 of 4 MIDI files were skipped' in err

def test_empty_and_strange_midi(cli, tmp_path):
    write_pattern(Pattern(make_notes([], []), 80., (3, 4)), tmp_path/'empty.mid')
    write_pattern(Pattern(make_notes([0, 1], [60, 64], is_drum=False)), tmp_path/'piano.mid')
    for name in ('empty', 'piano'):
        assert cli('humanize', f'{name}.mid', '-o', 'h.mid')[0] == 0 and keys(read_pattern(tmp_path/'h.mid').notes) == keys(read_pattern(tmp_path/f'{name}.mid').notes)
        assert cli('continue', f'{name}.mid', '-o', 'c.mid', '--bars', 1)[0] == 0 and read_pattern(tmp_path/'c.mid').meter == read_pattern(tmp_path/f'{name}.mid').meter

def test_styles(cli): assert cli('styles')[:2] == (0, 'funk\nhip hop\nreggae\n')

# bad input: one line, exit code 2, nothing written, nothing lost

@pytest.mark.parametrize('args, says', [
    ('generate -o x.mid --style polka', "unknown style 'polka'; known: funk, hip hop, reggae"),
    ('generate -o x.mid --style regae', 'did you mean reggae?'),
    ('generate -o x.mid --bars 0', '0 bars; at least 1'),
    ('generate -o x.mid --bars -3', '-3 bars'),
    ('generate -o x.mid --tempo 0', 'tempo is 0'),
    ('generate -o x.mid --tempo nan', 'tempo is nan'),
    ('generate -o x.mid --tempo -90', 'tempo is -90'),
    ('generate -o x.mid --meter 9/16', 'meter 9/16; one of 4/4'),
    ('generate -o x.mid --meter waltz', "meter 'waltz'; such as 4/4"),
    ('generate -o x.mid --number 0', '0 patterns; at least 1'),
    ('generate -o x.mid --number 2', 'x.mid: is one file for several patterns'),
    ('generate -o x.txt', 'neither a MIDI file nor a folder'),
    ('generate -o x.mid --kind solo', "unknown kind 'solo'; one of beat, fill"),
    ('generate -o x.mid --kit tabla', "unknown kit 'tabla'; one of td11, gm"),
    ('generate -o x.mid --temperature -1', 'temperature must be'),
    ('generate -o x.mid --top-p 0', 'top_p must be'),
    ('generate -o x.mid --top-k -1', 'top_k must be'),
    ('generate -o x.mid --guidance nan', 'guidance must be'),
    ('generate -o x.mid --device gramophone', 'device gramophone: cannot be used'),
    ('generate -o song.mid/x.mid', 'cannot be written'),
    ('generate -o x.mid --bundle nowhere', 'nowhere: '),
    ('styles --bundle nowhere', 'nowhere: '),
    ('continue gone.mid -o x.mid', 'gone.mid: no such file'),
    ('continue broken.mid -o x.mid', 'broken.mid: is not a whole MIDI file'),
    ('continue song.mid -o song.mid', 'song.mid: would replace a file that is read'),
    ('continue song.mid -o . --overwrite', 'would replace a file that is read'),
    ('continue song.mid -o x.mid --bars 0', '0 bars'),
    ('continue song.mid broken.mid -o out --style polka', "unknown style 'polka'"),
    ('humanize empty -o x', 'empty: holds no MIDI file'),
    ('humanize song.mid -o x.mid --strength 2', 'strength is 2'),
    ('humanize song.mid -o x.mid --timing-strength -1', 'timing_strength is -1'),
    ('humanize song.mid -o x.mid --mode best', "unknown mode 'best'"),
    ('humanize song.mid -o x.mid --style polka', "unknown style 'polka'"),
])
def test_bad_input_is_one_line(cli, song, tmp_path, args, says):
    (tmp_path/'empty').mkdir(); (tmp_path/'broken.mid').write_bytes(b'MThd and then nothing')
    before = files(tmp_path)
    code, out, err = cli(*args.split())
    assert code == 2 and err.startswith('audioml: ') and err.count('\n') == 1 and says in err
    assert files(tmp_path) == before and not out

def test_a_bundle_of_another_system(cli, tmp_path):
    code, _, err = cli('generate', '-o', 'x.mid', '--bundle', shipped_bundle('drums'))
    assert code == 2 and "is a bundle for 'drums'; one for 'groove'" in err and not files(tmp_path)

@pytest.mark.parametrize('args', ['generate --bars 2', 'generate -o x.mid --bars many', 'humanize -o x.mid', 'continue song.mid', 'sing'])
def test_wrong_usage(cli, args):
    code, _, err = cli(*args.split())
    assert code == 2 and 'Usage' in err and 'Traceback' not in err

@pytest.mark.parametrize('args', ['', 'generate', 'continue', 'humanize', 'styles'])
def test_help(cli, args):
    code, out, err = cli(*args.split(), '--help')
    assert code == 0 and out.startswith('Usage: audioml groove') and not err

# the bundle that ships

def test_shipped_bundle(tmp_path, shell_of):
    if not shipped_bundle('groove').exists(): pytest.skip('no groove bundle ships yet')
    style = load_generator(device='cpu').styles[0]
    res = shell_of('groove')('generate', '--style', style, '--bars', '4', '--tempo', '96', '-o', 'new.mid', '--wav')
    assert res.returncode == 0, res.stderr
    pattern = read_pattern(tmp_path/'new.mid')
    assert 3 <= pattern.n_bars <= 4 and len(pattern.notes) > 10 and (tmp_path/'new.wav').exists()
