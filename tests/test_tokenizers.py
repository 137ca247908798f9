"Laws of grammars, masks and drum tokens, over grammars and patterns of any kind, against definitions that share no code with them."
import math
import mido, numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from audioml.core import BadInput, derive_rng
from audioml.groove.tokenizer import *
from audioml.midi import *
from audioml.tokenizers import *

SETTINGS = settings(max_examples=60, deadline=None)


@st.composite
def grammars(draw):
    "A grammar of one to four families, with any rules."
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    names = 'abcd'[:len(sizes)]; some = lambda xs: st.lists(st.sampled_from(xs), min_size=1, unique=True).map(tuple)
    follows = {k: draw(some([*names, 'EOS'])) for k in ('BOS', *names)}
    pairs = [(k, o) for k in names for o in names if k != o]
    rises = {k: (draw(some([o for o in names if o != k])), draw(st.integers(0, 2))) for k in draw(st.lists(st.sampled_from(names), max_size=3))} if pairs else {}
    limits = {k: (o, tuple(draw(st.integers(0, sizes[names.index(k)])) for _ in range(sizes[names.index(o)]))) for k, o in draw(st.lists(st.sampled_from(pairs), max_size=2))} if pairs else {}
    return Grammar(Vocabulary({k: range(n) for k, n in zip(names, sizes)}), follows, rises, limits)


def may(grammar, before):
    "The tokens that may come after `before`, straight from the rules: looks back over the whole sequence for each token."
    vocab, out = grammar.vocab, set()
    words = [('BOS', 0), *((('PAD', 'BOS', 'EOS')[i], 0) if i < 3 else (vocab.names[vocab.family_of(i)], int(vocab.index_of(i))) for i in before)]
    def since(families): # what came after the last token of some families; all, where there is none
        at = [i for i, (f, _) in enumerate(words) if f in families]
        return words[at[-1]+1:] if at else words
    for i in range(len(vocab)):
        f, x = (('PAD', 'BOS', 'EOS')[i], 0) if i < 3 else (vocab.names[vocab.family_of(i)], int(vocab.index_of(i)))
        ok = f in grammar.follows[words[-1][0]]
        if f in grammar.rises:
            others, step = grammar.rises[f]; last = [y for g, y in since(others) if g == f][-1:]
            ok &= not last or (x//step > last[0]//step if step else x >= last[0])
        if f in grammar.limits:
            other, sizes = grammar.limits[f]; last = [y for g, y in words if g == other][-1:]
            ok &= not last or x < sizes[last[0]]
        if ok: out.add(i)
    return out or {EOS}


def follow(state, n_steps, rng):
    "Draw tokens by the masks: (rows, n_steps)."
    rows = []
    for _ in range(n_steps):
        rows.append([int(rng.choice(np.flatnonzero(m))) for m in state.mask().numpy()]); state.advance(torch.tensor(rows[-1]))
    return np.array(rows).T


@SETTINGS
@given(grammars(), st.integers(0, 10**6))
def test_masks_are_the_rules(grammar, seed):
    "The mask of every step is what the rules say, for each row by itself, and `check` passes what follows it."
    rng, state, rows = derive_rng(seed), grammar.start(3), [[], [], []]
    for _ in range(12):
        mask = state.mask()
        for row, m in zip(rows, mask): assert set(np.flatnonzero(m).tolist()) == may(grammar, row)
        ids = [int(rng.choice(np.flatnonzero(m))) for m in mask.numpy()]; state.advance(ids)
        for row, i in zip(rows, ids): row.append(i)
    for row in rows: grammar.check(row); grammar.check([BOS, *row])


@SETTINGS
@given(grammars(), st.integers(0, 10**6))
def test_check_names_the_first_wrong_token(grammar, seed):
    rng = derive_rng(seed, 'wrong'); ids = follow(grammar.start(1), 10, rng)[0]
    at = rng.integers(0, 10, 2); ids[at] = rng.integers(0, len(grammar.vocab), 2)
    wrong = [i for i in range(10) if ids[i] not in may(grammar, ids[:i]) and not (i == 0 and ids[0] == BOS)]
    if not wrong: return grammar.check(ids)
    with pytest.raises(BadInput) as e: grammar.check(ids)
    assert e.value.where == f'token {wrong[0]}' and e.value.want == grammar.describe(np.isin(np.arange(len(grammar.vocab)), list(may(grammar, ids[:wrong[0]]))))


@SETTINGS
@given(grammars(), st.integers(0, 10**6), st.integers(1, 3), st.integers(0, 3))
def test_any_wish_leaves_something_and_the_rules_hold(grammar, seed, n_a, n_last):
    "Counts and forbidden tokens of any kind: no mask is empty, what follows the masks passes `check`, and no row exceeds its counts unless the rules force it to go on."
    rng, counts = derive_rng(seed, 'wishes'), {grammar.vocab.names[1]: n_a} | {grammar.vocab.names[-1]: n_last}
    try: state = grammar.start(4, counts, rng.random((4, len(grammar.vocab))) < .7)
    except BadInput as e: assert 'no sequence has' in str(e); return
    for row in follow(state, 15, rng): grammar.check(row)


@SETTINGS
@given(grammars(), st.integers(0, 10**6), st.integers(0, 5))
def test_counts_hold_where_only_follows_rules(grammar, seed, n):
    "Without rises and limits a count is exact in every row that ends by itself, and a row always can end."
    grammar = Grammar(grammar.vocab, grammar.follows); family = grammar.vocab.names[-1]
    try: state = grammar.start(4, {family: n})
    except BadInput: return
    for row in follow(state, 60, derive_rng(seed, 'counts')):
        count = (grammar.vocab.family_of(row) == len(grammar.vocab.names) - 1).sum()
        assert count == n if EOS in row else count <= n


@SETTINGS
@given(grammars(), st.integers(0, 10**6))
def test_rows_do_not_know_of_each_other(grammar, seed):
    "A row fed, reordered and copied is what it would be alone."
    rng = derive_rng(seed, 'rows'); wish = rng.random((5, len(grammar.vocab))) < .8
    prompts = [follow(grammar.start(1), int(n), rng)[0] if n else [] for n in rng.integers(0, 8, 5)]
    state = grammar.start(5, None, wish).feed(prompts); rows = rng.integers(0, 5, 7)
    alone = [grammar.start(1, None, wish[r]).feed([prompts[r]]) for r in rows]
    copy, untouched = state.copy(), state.mask(); state.reorder(rows); ids = follow(state.copy(), 1, rng)[:, 0]
    assert torch.equal(copy.mask(), untouched)
    for _ in range(3):
        assert torch.equal(state.mask(), torch.cat([a.mask() for a in alone]))
        ids = [int(np.flatnonzero(m)[0]) for m in state.mask()]; state.advance(ids)
        for a, i in zip(alone, ids): a.advance([i])


TOKENIZERS = [GrooveTokenizer(c) for c in (GrooveTokenizerConfig(), GrooveTokenizerConfig(drums='nine', steps_per_beat=6, velocity_bins=10, timing_bins=4, meters=('4/4', '7/8', '3/4')),
                                           GrooveTokenizerConfig(velocity_bins=127, timing_bins=1))]
notes = st.lists(st.tuples(st.integers(0, 480*20), st.sampled_from([*TD11, 35, 60]), st.integers(1, 127)), max_size=40)
patterns = st.builds(lambda n, tempo, meter: Pattern(make_notes(*(np.array(n).reshape(-1, 3).T*[[1/480], [1], [1]]), .1), tempo, meter), notes, st.floats(4, 1000), st.sampled_from([(4, 4), (3, 4), (7, 8)]))


def strokes_of(t, pattern):
    "What of a pattern a tokenizer keeps, by the definition: (bar, step, drum, bin of timing) -> velocity, the loudest."
    kept = {}
    for _, n in pattern.notes.iterrows():
        if n.pitch not in TD11: continue
        x = n.onset*t.cfg.steps_per_beat; step = math.floor(x + .5); a_bar = round(pattern.beats_per_bar*t.cfg.steps_per_beat)
        at = step//a_bar, step % a_bar, n.pitch if t.cfg.drums == 'td11' else TD11_NINE[n.pitch], math.floor((x - step + .5)*t.cfg.timing_bins)
        kept[at] = max(kept.get(at, 0), n.velocity)
    return kept


@SETTINGS
@given(patterns, st.sampled_from(TOKENIZERS))
def test_patterns_there_and_back(pattern, t):
    "The strokes that are kept come back within half a bin in time and velocity, and their tokens are those of the definition."
    ids, kept = t.encode(pattern), strokes_of(t, pattern)
    t.grammar.check(ids, whole=True); assert len(t.bar_starts(ids)) == (max(kept)[0] + 1 if kept else 0)
    assert t.dropped(pattern) == dict(pitch=int((~pattern.notes.pitch.isin(TD11)).sum()), merged=int(pattern.notes.pitch.isin(TD11).sum()) - len(kept))
    back = t.decode(ids, pattern.tempo, strict=True); a_bar = pattern.beats_per_bar*t.cfg.steps_per_beat
    want = sorted((((bar*a_bar + step + (b + .5)/t.cfg.timing_bins - .5)/t.cfg.steps_per_beat, drum, v) for (bar, step, drum, b), v in kept.items()), key=lambda w: (round(w[0], 6), w[1]))
    assert len(back.notes) == len(want) and (not kept or back.meter == pattern.meter)
    for (onset, pitch, velocity), (_, n) in zip(want, back.notes.iterrows()):
        assert abs(n.onset - max(onset, 0)) < 1e-6 and n.pitch == pitch and 1 <= n.velocity <= 127 and abs(n.velocity - velocity) <= 127/t.cfg.velocity_bins/2 + .5
    assert np.array_equal(t.encode(back), ids)


@SETTINGS
@given(st.lists(st.integers(0, 10**6), max_size=80), st.sampled_from(TOKENIZERS))
def test_any_ids_decode(ids, t):
    "Any ids give a pattern that can be encoded, and written and read back as it is; `strict` refuses exactly what the grammar refuses."
    ids = [i % len(t.vocab) for i in ids]; p = t.decode(ids, 90.); check_notes(p.notes)
    assert (p.notes.velocity >= 1).all() and len(p.notes) <= len(ids)//3 and not p.notes.duplicated(['onset', 'pitch']).any()
    again = t.decode(t.encode(p), 90.); assert len(again.notes) <= len(p.notes)
    try: t.grammar.check(ids, whole=True)
    except BadInput:
        with pytest.raises(BadInput): t.decode(ids, strict=True)
    else: assert t.decode(ids, 90., strict=True).notes.equals(p.notes)


@SETTINGS
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 10**6)), min_size=1, max_size=4), st.sampled_from(TOKENIZERS))
def test_masked_patterns_have_their_bars(wanted, t):
    "Rows drawn by the masks with a count of bars and one meter have exactly these bars, and every token of theirs counts."
    n_bars, seeds = zip(*wanted); rng = derive_rng(seeds[0])
    for row, n in zip(follow(t.grammar.start(len(n_bars), dict(bar=np.array(n_bars)), t.allowed((7, 8))), 300, rng), n_bars):
        if EOS in row: assert len(t.bar_starts(row)) == n
        else: assert len(t.bar_starts(row)) <= n
        row = row[:row.tolist().index(EOS)] if EOS in row else row
        p = t.decode(row); assert p.meter == (7, 8) or not len(row); n_strokes = (t.vocab.family_of(row) == t.vocab.names.index('timing')).sum()
        assert len(p.notes) + p.notes.duplicated().sum() <= n_strokes


@SETTINGS
@given(patterns)
def test_mido_reads_what_was_written(tmp_path_factory, pattern):
    path = write_pattern(pattern, tmp_path_factory.mktemp('midi')/'a.mid'); song = mido.MidiFile(path); got = []
    for track in song.tracks:
        tick, sounding = 0, set()
        for m in track:
            tick += m.time
            if m.type == 'note_on' and m.velocity: assert m.note not in sounding; sounding.add(m.note); got.append((tick, m.note, m.velocity))
            elif m.type in ('note_on', 'note_off'): sounding.remove(m.note); assert (tick, m.note) not in {g[:2] for g in got}
        assert not sounding
    loudest = {}
    for _, n in pattern.notes.iterrows(): at = round(n.onset*480), n.pitch; loudest[at] = max(n.velocity, loudest.get(at, 0))
    assert sorted(got) == sorted((*at, v) for at, v in loudest.items()) and (song.type, song.ticks_per_beat) == (1, 480)
    back = read_pattern(path); assert back.meter == pattern.meter and abs(60e6/back.tempo - 60e6/pattern.tempo) <= 1.01 # rounded to microseconds, then to a tempo that rounds to those


@pytest.mark.parametrize('change, what', [(dict(config=dict(drums='four')), 'drums'), (dict(config=dict(timing_bins=0)), 'timing_bins is 0'), (dict(tokenizer='Other'), 'is no GrooveTokenizer'),
                                          (dict(config=3), 'is no GrooveTokenizer'), (dict(vocabulary={}), 'another vocabulary')])
def test_files_that_are_no_tokenizer(tmp_path, change, what):
    from audioml.core import read_json, write_json
    saved = GrooveTokenizer().save(tmp_path/'t.json'); assert GrooveTokenizer.load(saved).vocab == GrooveTokenizer().vocab
    write_json(saved, read_json(saved) | change)
    with pytest.raises(BadInput, match=what) as e: GrooveTokenizer.load(saved)
    assert 't.json' in str(e.value)
