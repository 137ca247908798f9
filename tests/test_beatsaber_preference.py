"What a notebook cannot show of preferences: laws over many answers, ratings that are wrong, and the run as papermill executes it, by measure and by given ratings."
import json
import numpy as np, pandas as pd, pytest, torch
from audioml.beatsaber.data import NoteWindows, embedded_songs, map_store
from audioml.beatsaber.decode import MapGrammar, WritingConfig
from audioml.beatsaber.flow import swings
from audioml.beatsaber.model import NoteModel, load_stage, note_model_config, save_stage
from audioml.beatsaber.preference import *
from audioml.beatsaber.tokenizer import MapTokenizer
from audioml.core import BadInput
from audioml.training.preference import PreferenceModel, collate_pairs, dpo_loss, with_reference
from runs import execute

PLAIN = WritingConfig(1., 1., 1.)

@pytest.fixture(scope='module')
def tmp(tmp_path_factory): return tmp_path_factory.mktemp('preference')

@pytest.fixture(scope='module')
def store(tmp): return map_store(tmp/'store', *embedded_songs(17, 0, 20.), progress=False)

@pytest.fixture(scope='module')
def windows(store): return NoteWindows(store, MapTokenizer(), 'train', difficulties=('Hard', 'ExpertPlus'))

@pytest.fixture(scope='module')
def model(): torch.manual_seed(0); return NoteModel(note_model_config('tiny', dropout=0.))

@pytest.fixture(scope='module')
def answers(model, windows): return write_answers(model, draw_prompts(windows, 5), 3, PLAIN, FreeHands)

def written(a): return a.beatmap.notes['beat'][a.beatmap.notes['beat'] >= a.prompt.start - 1e-6]

def test_answers_keep_to_the_onsets_and_bound_hands_to_their_turns(model, windows, answers):
    bound = write_answers(model, draw_prompts(windows, 5), 2, PLAIN, MapGrammar)
    for a in (a for row in answers + bound for a in row):
        assert a.whole and np.allclose(np.unique(written(a)), a.prompt.start + np.array(a.prompt.plan.ticks)/MapTokenizer().cfg.ticks)
        assert np.array_equal(a.beatmap.notes[:len(a.prompt.before.notes)]['beat'], a.prompt.before.notes['beat'])
    errors = lambda rows: sum(swings(a.beatmap)['error'][swings(a.beatmap)['beat'] >= a.prompt.start - 1e-6].sum() for row in rows for a in row)
    assert errors(bound) == 0 < errors(answers)

def test_an_answer_depends_on_its_question_number_and_seed_alone(model, windows, answers):
    prompts = draw_prompts(windows, 5)
    again = write_answers(model, prompts[::-1], 2, PLAIN, FreeHands, bs=3)[::-1]
    assert [[a.id for a in row] for row in again] == [[a.id for a in row[:2]] for row in answers]
    other = write_answers(model, prompts, 3, PLAIN, FreeHands, seed=1)
    assert len({a.id for row in answers + other for a in row}) == 30

def test_the_figures_of_the_hands_see_only_the_part_that_is_asked_for(answers):
    a = answers[0][0]; whole, part = hand_figures(a.beatmap), hand_figures(a.beatmap, a.prompt.start)
    assert whole != part and part == hand_figures(a.beatmap, a.prompt.start + 1e-9)
    s = swings(a.beatmap); assert part['parity_errors'] == pytest.approx(s['error'][s['beat'] >= a.prompt.start].mean())
    assert all(np.isnan(v) for v in hand_figures(a.beatmap, 1e6).values())
    for k, v in USUAL.items(): assert hand_quality(USUAL | {k: v + .1}) < 1 and hand_quality(USUAL | {k: np.nan}) == pytest.approx(5/6)

def test_pairs_are_the_extremes_and_ask_for_what_was_drawn(model, answers):
    pairs = rank_pairs(answers, least=.01)
    for b, w in pairs:
        q = [answer_quality(a) for row in answers if row[0].prompt is b.prompt for a in row]
        assert answer_quality(b) == max(q) and answer_quality(w) == min(q) and max(q) - min(q) > .01
    known = with_reference(model, [answer_pair(*p) for p in pairs], ask_notes)
    alone = [with_reference(model, [answer_pair(*p)], ask_notes)[0].reference for p in pairs]
    assert np.allclose([p.reference for p in known], alone, atol=1e-3)  # whoever is in the batch
    x, reference = collate_pairs(known); logps, lengths = PreferenceModel(model, ask_notes)(x)
    loss = dpo_loss(logps, reference); assert loss.item() == pytest.approx(np.log(2), abs=1e-4)
    assert lengths.tolist() == [len(a.tokens) for i in (0, 1) for a in (p[i] for p in pairs)]
    model.zero_grad(); loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for k, p in model.named_parameters() if k.startswith(('listen.proj', 'conditioner', 'decoder.near')))
    model.zero_grad()

def test_ratings_that_are_wrong_are_said_in_one_line(tmp, answers):
    path = tmp/'ratings.csv'
    for text, said in (('a,b\n1,2\n', 'has columns a, b'), ('id,rating\nx,\n', 'rates nothing'), ('id,rating\nx,1\ny,good\n', "'good' is no rating"), ('', 'cannot be read'), ('id,rating\nx,inf\n', 'inf')):
        path.write_text(text)
        with pytest.raises(BadInput, match=said): read_ratings(path)
    with pytest.raises(BadInput, match='cannot be read'): read_ratings(tmp/'nowhere.csv')
    path.write_text('id,rating\nx,1\n')
    with pytest.raises(BadInput, match='no question has two answers'): rank_pairs(answers, read_ratings(path))  # of other answers

def test_whole_maps_have_the_onsets_of_the_songs_and_no_wrong_turn(model, windows, store):
    keys = windows.maps[:3]; made = write_maps(model, windows, keys, PLAIN)
    for k, m in made.items():
        assert np.allclose(np.unique(m.notes['beat']), np.unique(store.beatmap(*k).notes['beat'])) and not swings(m)['error'].any()
    assert write_maps(model, windows, keys[1:2], PLAIN)[keys[1]] == made[keys[1]]

@pytest.fixture(scope='module')
def given(model, store, tmp):
    save_stage(tmp/'bundle', model, '# card\n')
    return dict(bundle=str(tmp/'bundle'), store_dir=str(tmp/'store'), n_songs=17, song_seconds=20., n_pairs=8, n_answers=2, n_epoch=1, n_maps=4, free_hands=False, n_workers=0)

@pytest.fixture(scope='module')
def tuned(given, tmp):
    execute('93_beatsaber_preference', tmp/'out.ipynb', given | dict(run_dir=tmp/'run'))
    return tmp/'run'

def test_a_run_tunes_judges_and_keeps(tuned, model):
    assert {'params.json', 'model', 'history.csv', 'metrics.json', 'figures', 'checkpoints', 'answers.csv'} == {p.name for p in tuned.iterdir()}
    assert {'pair', 'learning_curve', 'before_and_after'} == {p.stem for p in (tuned/'figures').glob('*.png')}
    m = json.loads((tuned/'metrics.json').read_text())
    assert 0 < m['n_pairs'] <= 8 and m['n_maps'] == 4 and m['n_songs'] == 2 and m['split'] == 'test'
    assert m['gain'] == pytest.approx(m['quality'] - m['quality_before'], abs=2e-4) and m['gain_low'] <= m['gain'] <= m['gain_high']
    assert {'quality', 'bits', 'score', 'patterns', 'cells', 'direction', 'errors', 'nps'} <= set(m['figures']) and m['figures']['parity_errors']['after'] == 0
    new = load_stage(tuned/'model', NoteModel)
    assert any(not torch.equal(a, b) for a, b in zip(new.state_dict().values(), model.state_dict().values()))
    assert '93_beatsaber_preference' in (tuned/'model'/'README.md').read_text()

def test_a_run_by_given_ratings(tuned, given, tmp):
    t = pd.read_csv(tuned/'answers.csv'); rated = t.groupby('bar').cumcount() % 2
    assert len(t) == len(set(t.id)) == 2*(8 + 2)
    t.assign(rating=rated).to_csv(tmp/'rated.csv', index=False)
    execute('93_beatsaber_preference', tmp/'out2.ipynb', given | dict(run_dir=tmp/'rated', ratings=tmp/'rated.csv'))
    assert 'ranked by ratings' in (tmp/'rated'/'model'/'README.md').read_text()
