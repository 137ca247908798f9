"From a song to a package as users meet it: the same bytes for the same seed, a map that loads and plays, bad songs in one line, one part anew, the run; and what a grammar with a plan promises whatever the model says."
import json, shutil, struct, subprocess, sys, zipfile
import numpy as np, pytest, soundfile as sf
from hypothesis import HealthCheck, given, settings, strategies as st
from audioml.beatsaber.automap import GRIDS, STAGES
from audioml.beatsaber.beatmap import Beatmap
from audioml.beatsaber.decode import MapGrammar, Plan, hands_at
from audioml.beatsaber.flow import SWING_BEATS, SWING_SECONDS, parity_errors
from audioml.beatsaber.level import NAMES, NOTES_A_SECOND, read_level
from audioml.beatsaber.losses import LEAST_GAPS
from audioml.beatsaber.postprocess import notes_a_second
from audioml.beatsaber.synth import draw_song, render_song, skill
from audioml.beatsaber.tokenizer import MapTokenizer
from audioml.beatsaber.validate import validate
from audioml.core import derive_rng
from audioml.inference.bundle import shipped_bundle
from audioml.tokenizers import BOS, EOS
from runs import AUDIOML, RUNS, execute

RATE, SECONDS = 22050, 30.
ABSENT = [k.system for k in STAGES.values() if not shipped_bundle(k.system).is_dir()]
ships = pytest.mark.skipif(bool(ABSENT), reason=f'without the bundles that ship no map is made: {", ".join(ABSENT)}')
AUTOMAP = [*AUDIOML, 'beatsaber', 'automap']

def parts(path):
    with zipfile.ZipFile(path) as z: return {n: z.read(n) for n in z.namelist()}
def shell(*words, cwd): return subprocess.run([*AUTOMAP, *map(str, words)], cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)
def one_line(code, err): return code == 2 and err.count('\n') == 1 and err.startswith('audioml: ') and 'Traceback' not in err

@pytest.fixture(scope='module')
def song(tmp_path_factory):
    "Thirty seconds of an embedded song that nothing was trained on."
    path = tmp_path_factory.mktemp('song')/'Some Band - Some Song.flac'
    sf.write(path, render_song(draw_song(77_001, 'dance', SECONDS), RATE).samples[0].numpy(), RATE)
    return path

@pytest.fixture(scope='module')
def package(song):
    "Made by a process of its own."
    path = song.with_name('first.zip'); done = shell(song, '-d', 'Hard', '-d', 'ExpertPlus', '--seed', 4, '-o', path, cwd=song.parent)
    assert (done.returncode, done.stderr) == (0, ''), done.stderr[-3000:]
    assert done.stdout.startswith(f'{path}: Hard ') and 'ExpertPlus' in done.stdout and done.stdout.count('\n') == 1
    return path

@pytest.fixture
def cli(song, monkeypatch, capsys):
    "Words of `audioml beatsaber` -> exit code, output, error stream, in this process and in the folder of the song."
    from audioml.cli import main
    monkeypatch.chdir(song.parent)
    def run(*words):
        monkeypatch.setattr(sys, 'argv', ['audioml', 'beatsaber', *map(str, words)])
        code = 0
        try: main()
        except SystemExit as e: code = e.code or 0
        return code, *capsys.readouterr()
    return run

# a package

@ships
def test_the_same_song_and_seed_give_the_same_bytes(package, song, cli):
    args = 'automap', song, '-d', 'Hard', '-d', 'ExpertPlus'
    assert cli(*args, '--seed', 4, '-o', 'again.zip')[0] == 0 and (song.parent/'again.zip').read_bytes() == package.read_bytes()
    assert cli(*args, '--seed', 5, '-o', 'other.zip')[0] == 0
    a, b = parts(package), parts(song.parent/'other.zip')
    assert a.keys() == b.keys() and all(a[n] != b[n] for n in a if n.endswith('Standard.dat')) and a['song.egg'] == b['song.egg']

@ships
def test_the_package_loads_and_plays(package, song):
    assert [f for f in validate(package) if f.severity == 'error'] == []
    level, inside = read_level(package), parts(package)
    assert (level.song, level.artist, level.mapper) == ('Some Song', 'Some Band', 'audioml') and list(inside)[0] == 'Info.dat'
    (song.parent/'played.ogg').write_bytes(inside['song.egg']); a, b = sf.info(song.parent/'played.ogg'), sf.info(song)
    assert a.format == 'OGG' and abs(a.duration - b.duration) < .01
    easy, hard = level['Hard'].beatmap, level['ExpertPlus'].beatmap
    assert [d.name for d in level.difficulties] == ['Hard', 'ExpertPlus'] and len(easy.notes) < len(hard.notes)
    for n in ('Hard', 'ExpertPlus'):
        low, high = NOTES_A_SECOND[n]; m = level[n].beatmap
        assert low <= notes_a_second(m) <= high and m.seconds(m.notes['beat'][0]) >= 1.5 and m.seconds(m.notes['beat'][-1]) <= b.duration - 2 and len(parity_errors(m)) <= .05*len(m.notes)
    assert np.array_equal(easy.events, hard.events) and len(easy.events) > 200*SECONDS/180

@ships
def test_choices_reach_the_map(package, song, cli):
    "Fewer blocks when fewer are asked for, nothing to dodge, no lights; coloured ones with a palette, which says so."
    code, _, err = cli('automap', song, '-d', 'Hard', '--density', .6, '--bombs', 'none', '--walls', 'none', '--no-lights', '--title', 'Named', '--artist', 'Me', '--genre', 'dance', '-o', 'plain.zip')
    assert (code, err) == (0, '')
    level, usual = read_level('plain.zip'), read_level(package)['Hard'].beatmap; m = level['Hard'].beatmap
    assert (level.song, level.artist) == ('Named', 'Me') and len(m.notes) < .9*len(usual.notes) and not len(m.bombs) and not len(m.walls) and not len(m.events)

@ships
def test_one_bad_song_among_several(song, cli, tmp_path):
    folder = tmp_path/'in'; folder.mkdir(); out = tmp_path/'out'
    x, rate = sf.read(song, dtype='float32'); sf.write(folder/'good.wav', x[:14*rate], rate); (folder/'bad.wav').write_text('no sound')
    code, said, err = cli('automap', folder, '-d', 'Easy', '-o', out)
    assert code == 2 and 'bad.wav' in err and '1 of 2' in err and 'Traceback' not in err and [p.name for p in out.iterdir()] == ['good.zip'] and 'good.zip: Easy' in said
    before = (out/'good.zip').read_bytes(); (out/'good.zip').write_bytes(b'mine')
    code, said, err = cli('automap', folder/'good.wav', '-d', 'Easy', '-o', out)
    assert (out/'good.zip').read_bytes() == b'mine' and 'there already' in said + err  # nothing is lost
    assert cli('automap', folder/'good.wav', '-d', 'Easy', '-o', out, '--overwrite')[0] == 0 and (out/'good.zip').read_bytes() == before

# songs that are none

def long_wav(path, hours=2, rate=8000):
    "A recording of hours of silence of which only the header is on the disk."
    n = int(hours*3600*rate)
    path.write_bytes(b'RIFF' + struct.pack('<I', 36 + n) + b'WAVEfmt ' + struct.pack('<IHHIIHH', 16, 1, 1, rate, rate, 1, 8) + b'data' + struct.pack('<I', n))
    with open(path, 'r+b') as f: f.truncate(44 + n)
    return path

def refused(folder):
    "Songs that cannot be mapped -> what is said."
    t = np.arange(5*RATE)/RATE; sf.write(folder/'short.wav', .5*np.sin(2*np.pi*440*t), RATE); sf.write(folder/'silent.wav', np.zeros(20*RATE), RATE)
    sf.write(folder/'nan.wav', np.full(20*RATE, np.nan, np.float32), RATE, subtype='FLOAT'); (folder/'text.wav').write_text('no sound\n'*1000); (folder/'empty.mp3').touch()
    return {folder/'short.wav': 'lasts 5 s', folder/'silent.wav': 'is silent', folder/'nan.wav': 'NaN', folder/'text.wav': 'text.wav', folder/'empty.mp3': 'empty.mp3',
            long_wav(folder/'long.wav'): 'lasts 7200 s', folder/'missing.ogg': 'missing.ogg'}

@ships
def test_bad_songs_are_refused_in_one_line(cli, tmp_path):
    for path, says in refused(tmp_path).items():
        code, out, err = cli('automap', path, '-o', tmp_path/'x.zip')
        assert one_line(code, err) and says in err and str(path) in err and not out, (path, err)
        assert not (tmp_path/'x.zip').exists()

@ships
def test_noise_gets_a_map_that_is_one(cli, tmp_path):
    sf.write(tmp_path/'noise.wav', .1*derive_rng('noise').standard_normal(14*RATE), RATE)
    code, _, err = cli('automap', tmp_path/'noise.wav', '-d', 'Normal', '-o', tmp_path/'noise.zip')
    assert (code, err) == (0, '') and [f for f in validate(tmp_path/'noise.zip') if f.severity == 'error'] == []

def test_what_there_is_not_is_said_in_one_line(cli, song, tmp_path):
    "Before a song is read."
    for words, says in ((('-d', 'Harder'), "no difficulty 'Harder'"), (('-d', 'Hard', '-d', 'Hard'), 'one of each'), (('--genre', 'polka'), "no genre 'polka'"), (('--bombs', 'many'), "bombs are 'many'"),
                        (('--palette', 'mud'), "no palette 'mud'"), (('--temperature', -1), 'temperature'), (('--beams', 99), 'n_beams'), (('-o', tmp_path/'x.mid'), 'x.mid')):
        code, out, err = cli('automap', song, *words)
        assert one_line(code, err) and says in err and not out, (words, err)

@ships
def test_bundles_that_are_missing_damaged_or_of_another_stage(cli, song, tmp_path):
    there = {k: shipped_bundle(kind.system) for k, kind in STAGES.items()}
    shutil.copytree(there['notes'], tmp_path/'cut'); data = (tmp_path/'cut'/'model.safetensors').read_bytes(); (tmp_path/'cut'/'model.safetensors').write_bytes(data[:-100])
    shutil.copytree(there['notes'], tmp_path/'other'); (tmp_path/'other'/'model.safetensors').write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    for words in (('--onsets', tmp_path/'nowhere'), ('--notes', tmp_path/'cut'), ('--notes', tmp_path/'other'), ('--notes', there['lights'])):
        code, out, err = cli('automap', song, *words, '-o', tmp_path/'x.zip')
        assert one_line(code, err) and str(words[1]) in err and not out and not (tmp_path/'x.zip').exists(), (words, err)

# a part anew

@ships
def test_remap_leaves_the_rest_alone(package, song, cli):
    args = 'remap', package, '--from', 12, '--to', '0:18', '-d', 'ExpertPlus', '-o', 'remapped.zip', '--seed', 9
    code, _, err = cli(*args)
    assert (code, err) == (0, '')
    new = song.parent/'remapped.zip'; a, b = parts(package), parts(new)
    assert list(a) == list(b) and [n for n in a if a[n] != b[n]] == ['ExpertPlusStandard.dat']  # song, cover, info and the other map, byte for byte
    old, mine = (read_level(p)['ExpertPlus'].beatmap for p in (package, new)); bar = 4*60/old.bpm + .1
    for kind in ('notes', 'bombs', 'walls', 'arcs', 'chains', 'events', 'boosts'):
        x, y = (getattr(m, kind) for m in (old, mine)); t, u = old.seconds(x['beat']), mine.seconds(y['beat']); far = 0 if kind in ('events', 'boosts') else bar
        assert np.array_equal(x[(t < 12 - far) | (t > 18 + far)], y[(u < 12 - far) | (u > 18 + far)]), kind
    assert [f for f in validate(new) if f.severity == 'error'] == []
    before = new.read_bytes(); code, _, err = cli(*args)
    assert one_line(code, err) and 'is there already' in err and new.read_bytes() == before
    assert cli(*args, '--overwrite')[0] == 0 and new.read_bytes() == before  # the same seed, the same bytes

@ships
def test_parts_that_are_none(package, cli, tmp_path):
    (tmp_path/'no.zip').write_bytes(b'PK\3\4')
    for path, a, b, more, says in ((package, 12, 500, (), 'a part of its'), (package, 18, 12, (), 'a part of its'), (package, 'x', 12, (), "'x' is no time"), (package, 1, 9, ('-d', 'Easy'), 'has none of Easy'), (tmp_path/'no.zip', 1, 9, (), 'no.zip')):
        code, out, err = cli('remap', path, '--from', a, '--to', b, *more, '-o', tmp_path/'x.zip')
        assert one_line(code, err) and says in err and not out and not (tmp_path/'x.zip').exists(), (says, err)

# the run

def run_cells(params):
    "Execute the notebook in this process; what its cells define."
    ns = dict(display=lambda *a: None)
    for cell in json.loads((RUNS/'94_beatsaber_maps.ipynb').read_text())['cells']:
        if cell['cell_type'] == 'code': exec(''.join(cell['source']), ns)
        if 'parameters' in cell['metadata'].get('tags', []): ns.update(params)
    return ns

@ships
def test_the_run_makes_and_judges(tmp_path):
    execute('94_beatsaber_maps', tmp_path/'out.ipynb', dict(run_dir=tmp_path/'maps', n_songs=1, song_seconds=20., difficulties='ExpertPlus, Normal', label='one'))
    run = tmp_path/'maps'; m = json.loads((run/'metrics.json').read_text()); zips = list((run/'maps').iterdir())
    assert {'example', 'density', 'scores', 'history'} == {p.stem for p in (run/'figures').glob('*.png')} and len(zips) == 1
    assert m['difficulties'] == ['Normal', 'ExpertPlus'] and (m['n_songs'], m['n_maps'], m['skipped'], m['findings']['error']) == (1, 2, [], 0)
    assert m['figures']['Normal']['mended']['nps'] < m['figures']['ExpertPlus']['mended']['nps'] and set(m['figures']['Normal']) == {'written', 'mended'}
    assert 0 < m['every_beat_f'] < 1 and m['onset_f'] > 0 and set(m['score']) == {'map', 'rule', 'random', 'shuffled', 'metronome', 'zigzag'}
    made = read_level(zips[0]); assert [d.name for d in made.difficulties] == m['difficulties'] and m['figures']['Normal']['mended']['blocks'] == len(made['Normal'].beatmap.notes)
    history = json.loads((run/'reference.json').read_text()); assert [r['label'] for r in history['runs']] == ['one'] and history['song'].endswith(', ExpertPlus')

@ships
def test_the_run_skips_what_is_no_song(song, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('MPLBACKEND', 'Agg')
    folder = tmp_path/'songs'; folder.mkdir(); x, rate = sf.read(song, dtype='float32'); sf.write(folder/'mine.wav', x[:14*rate], rate); (folder/'bad.ogg').write_text('no sound')
    ns = run_cells(dict(run_dir=str(tmp_path/'run'), song_dir=str(folder), reference=str(song), history=str(tmp_path/'history.json'), difficulties='Normal', lights=False))
    assert ns['metrics']['skipped'] == ['bad'] and ns['metrics']['onset_f'] is None and 'skipped bad: ' in capsys.readouterr().out
    assert {p.stem for p in (tmp_path/'run'/'maps').iterdir()} == {'mine', song.stem} and json.loads((tmp_path/'history.json').read_text())['song'] == f'{song.stem}, Normal'

# a grammar with a plan, whatever the model says

TOKENIZER = MapTokenizer()
often = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

@st.composite
def plans(draw, n_bars=1):
    "Onsets of some bars: on the lines of a difficulty, with its least gap between them, and too far apart for one swing."
    name, bpm, c = draw(st.sampled_from(NAMES)), draw(st.floats(60, 215)), TOKENIZER.cfg
    lines = np.unique(np.concatenate([np.arange(n_bars*c.beats_per_bar*d)/d for d in GRIDS[name]]).round(9))
    rng, kept = derive_rng('plan', draw(st.integers(0, 10**6))), []
    for beat in lines[rng.random(len(lines)) < draw(st.sampled_from((.05, .3, .7, 1.)))]:
        if not kept or beat - kept[-1] > SWING_BEATS and (beat - kept[-1])*60/bpm > max(LEAST_GAPS[name], SWING_SECONDS) + 1e-6: kept.append(float(beat))
    return bpm, Plan(tuple(np.round(np.array(kept)*c.ticks).astype(int).tolist()), tuple((np.array(kept)*60/bpm).tolist()), n_bars, hand_gap=skill(name).hand_gap)

def scribble(plans, seeds, prompts=None):
    "What models that know nothing write, each with its own dice: tokens of each row."
    prompts = prompts or [np.array([BOS])]*len(plans)
    state, rows, dice = MapGrammar(TOKENIZER, plans).feed(prompts), [[] for _ in plans], [derive_rng('scribble', s) for s in seeds]
    for _ in range(2000):
        mask = state.mask().numpy()
        assert mask.any(1).all()
        ids = np.array([EOS if EOS in r else d.choice(np.flatnonzero(m)) for r, d, m in zip(rows, dice, mask)])
        state.advance(ids)
        for r, i in zip(rows, ids):
            if EOS not in r: r.append(int(i))
        if all(EOS in r for r in rows): return rows
    raise AssertionError('it never ends')

def drawn(tokens, bpm, start=0.): return TOKENIZER.decode(np.array(tokens), Beatmap(bpm=bpm), start=start)

@often
@given(plans(), st.integers(0, 10**6))
def test_every_onset_gets_a_block_and_nothing_else_does(planned, seed):
    bpm, plan = planned; m = drawn(scribble([plan], [seed])[0], bpm); beats, number = np.unique(m.notes['beat'], return_counts=True)
    assert np.allclose(beats, np.array(plan.ticks)/TOKENIZER.cfg.ticks) and (number <= 4).all() and not any(len(getattr(m, k)) for k in ('bombs', 'walls', 'arcs', 'chains'))
    cells = np.stack([m.notes[k] for k in ('beat', 'x', 'y')], 1); assert len(np.unique(cells, axis=0)) == len(cells)  # no two in one cell
    assert all((m.notes['color'][m.notes['beat'] == b] == c).sum() <= 2 for b in beats for c in (0, 1))

@often
@given(plans(), plans(), st.integers(0, 10**6))
def test_wrists_turn_by_turns_from_window_to_window(one, two, seed):
    bpm, first = one; start = first.n_bars*TOKENIZER.cfg.beats_per_bar
    m = drawn(scribble([first], [seed])[0], bpm); ticks = np.array(two[1].ticks, int)
    seconds = (start + ticks/TOKENIZER.cfg.ticks)*60/bpm; room = np.diff(seconds, prepend=-np.inf) >= max(LEAST_GAPS.values())
    second = Plan(tuple(ticks[room].tolist()), tuple(seconds[room].tolist()), two[1].n_bars, hands_at(m, start), two[1].hand_gap)
    after = drawn(scribble([second], [seed + 1], [np.r_[BOS, TOKENIZER.encode(m, 0, start)]])[0], bpm, start)
    whole = m.replace(notes=np.concatenate([m.notes, after.notes]))
    assert len(parity_errors(m)) == 0 and len(parity_errors(whole)) == 0

@often
@given(st.lists(plans(), min_size=2, max_size=4), st.integers(0, 10**6))
def test_rows_do_not_know_of_each_other(planned, seed):
    each = [p for _, p in planned]; seeds = [seed + i for i in range(len(each))]
    assert scribble(each, seeds) == [scribble([p], [s])[0] for p, s in zip(each, seeds)]

@often
@given(plans(), st.integers(0, 10**6))
def test_a_theme_comes_again_where_hands_can(planned, seed):
    bpm, plan = planned; tokens = scribble([plan], [seed])[0]; tick, rows = TOKENIZER.grid(drawn(tokens, bpm), 'notes')
    theme = {int(t): tuple(map(tuple, rows[tick == t, :2].tolist())) for t in np.unique(tick)}
    again = scribble([Plan(plan.ticks, plan.seconds, plan.n_bars, plan.hands, plan.hand_gap, theme)], [seed + 1])[0]
    assert again == tokens  # the same hands, the same onsets: the same bars
