"Slices of streams at different rates stay together, whatever the rates; a wrong stride does not go unseen."
import numpy as np, pytest
from hypothesis import assume, given, settings, strategies as st
from audioml.core import BadInput
from audioml.windowing import *

SETTINGS = settings(max_examples=150, deadline=None)


@st.composite
def codecs(draw, context=st.integers(0, 4)):
    "A codec: its hop, the strides of its levels in units of the finest, and how much finer its target is than its input."
    strides = np.cumprod([1] + draw(st.lists(st.sampled_from([2, 3, 4]), max_size=3)))[::-1].tolist()
    hop, up = draw(st.integers(1, 12)), draw(st.sampled_from([1, 2, 3]))
    ratios = {f'codes_{i}': strides[0]//s for i, s in enumerate(strides)} | dict(audio=hop*strides[0]*up)
    return AlignedSlices(ratios, draw(context))


def moments(slices, steps):
    "Streams whose rows say when they are, in steps: the middle of each."
    return {k: (np.arange(steps*r)+.5)/r for k, r in slices.ratios.items()}


@st.composite
def places(draw, slices, most=40):
    "A recording, and a slice inside it: steps in all, first step, steps."
    total = draw(st.integers(1, most)); n = draw(st.integers(1, total))
    return total, draw(st.integers(0, total-n)), n


@SETTINGS
@given(st.data())
def test_every_stream_shows_the_same_moments(data):
    "For any strides, hop, context, start and length: all rows of a slice lie between its ends, and none is missing."
    slices = data.draw(codecs()); total, start, n = data.draw(places(slices))
    streams = moments(slices, total)
    left, right = slices.context_at(start, n, total)
    assert 0 <= left <= min(slices.context, start) and start+n+right <= total
    wide = {k: streams[k][at] for k, at in slices.rows(start-left, n+left+right).items()}
    for k, x in slices.crop(wide, left, right).items():
        assert len(x) == n*slices.ratios[k] and x[0] > start and x[-1] < start+n
        assert np.allclose(wide[k][[0, -1]].round(9) // 1, [start-left, start+n+right-1])
    assert slices.whole_steps({k: len(x) for k, x in streams.items()}) == total


@SETTINGS
@given(st.data())
def test_existing_context_agrees_with_padding(data):
    "Where the context exists it is what `cut` reads; where it does not, `cut` pads."
    slices = data.draw(codecs()); total, start, n = data.draw(places(slices))
    streams = moments(slices, total)
    left, right = slices.context_at(start, n, total)
    padded = slices.cut(streams, start, n, pad_value=-1)
    for k, at in slices.rows(start-left, n+left+right).items():
        r = slices.ratios[k]; before, after = (slices.context-left)*r, (slices.context-right)*r
        assert np.array_equal(padded[k][before:len(padded[k])-after], streams[k][at])
        assert (padded[k][:before] == -1).all() and (padded[k][len(padded[k])-after:] == -1).all()
    bare = {k: streams[k][at] for k, at in slices.rows(start, n).items()}
    for k, x in slices.crop(padded).items(): assert np.array_equal(x, bare[k])


@SETTINGS
@given(st.data(), st.integers(-3, 3))
def test_a_wrong_stride_is_told_by_the_lengths(data, off):
    "Whichever stream has another ratio than the config says, by however little: one line names it."
    slices = data.draw(codecs()); k = data.draw(st.sampled_from(list(slices.ratios)))
    wrong = slices.ratios[k]+off; assume(off and wrong > 0)
    lengths = {name: 12*(wrong if name == k else r) for name, r in slices.ratios.items()}
    assume(len(lengths) > 1)
    with pytest.raises(BadInput, match='rows') as e: slices.whole_steps(lengths)
    assert '\n' not in str(e.value)


@SETTINGS
@given(st.data(), st.integers(1, 100))
def test_a_missing_row_is_told(data, off):
    slices = data.draw(codecs()); k = data.draw(st.sampled_from(list(slices.ratios)))
    lengths = {name: 120*r for name, r in slices.ratios.items()}; lengths[k] -= off
    assume(len(lengths) > 1 or off % slices.ratios[k])
    with pytest.raises(BadInput): slices.whole_steps(lengths)


# --- with sound ---

def best_lag(a, b, most):
    "The lag, in samples, where `b` shifted is most like `a`."
    def similar(lag):
        x, y = (a[lag:], b[:len(b)-lag]) if lag >= 0 else (a[:lag], b[-lag:])
        return np.corrcoef(x, y)[0, 1]
    return max(range(-most, most+1), key=similar)


def lag_of(slices, streams, audio, start, n, level, most):
    "The lag between the target of a slice and what is decoded from one level of its codes: a code is the number of a block of samples."
    part = {k: streams[k][at] for k, at in slices.rows(start, n).items()}
    decoded = audio.reshape(len(streams[level]), -1)[part[level]].ravel()
    size = min(len(decoded), len(part['audio']))
    return best_lag(part['audio'][:size], decoded[:size], most)


@pytest.mark.parametrize('strides', [(4, 2, 1), (8, 4, 2, 1), (6, 3, 1)])
@pytest.mark.parametrize('n', [1, 3, 8])
def test_decode_and_target_are_aligned_for_every_start(strides, n):
    "For every level and start the decoded slice is most like its target at lag 0; with one ratio wrong it is not."
    hop, total = 16, 14
    step = hop*strides[0]
    audio = np.random.default_rng(0).normal(size=total*step)
    ratios = {f'codes_{i}': strides[0]//s for i, s in enumerate(strides)} | dict(audio=step)
    slices, streams = AlignedSlices(ratios), {k: np.arange(total*r) for k, r in ratios.items()} | dict(audio=audio)
    for level in list(ratios)[:-1]:
        assert {lag_of(slices, streams, audio, s, n, level, hop) for s in range(total-n+1)} == {0}
    wrong = AlignedSlices(ratios | dict(audio=step+hop//4)) # a target that is taken to tick a little faster
    assert [lag_of(wrong, streams, audio, s, n, 'codes_0', hop) for s in (0, 1, 2)] == [0, -hop//4, -hop//2]
    with pytest.raises(BadInput, match='audio has'): wrong.whole_steps({k: len(x) for k, x in streams.items()})


# --- random starts ---

@SETTINGS
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(0, 2**40), st.integers(0, 10**6), st.text(), st.integers(0, 9))
def test_a_start_is_inside_and_always_the_same(total, n, seed, epoch, item_id, number):
    start = draw_start(total, n, seed, epoch, item_id, number)
    assert 0 <= start <= max(0, total-n) and start == draw_start(total, n, seed, epoch, item_id, number)


def test_starts_move_with_all_they_are_named_by():
    "Epoch, recording, number and seed each give other starts, every place comes up, and none more often than chance allows."
    base = dict(seed=0, epoch=0, item_id='a', number=0)
    for key, values in dict(seed=range(4000), epoch=range(4000), number=range(4000), item_id=[f'{i}' for i in range(4000)]).items():
        counts = np.bincount([draw_start(30, 11, **base | {key: v}) for v in values], minlength=20)
        assert len(counts) == 20 and ((counts-200)**2/200).sum() < 50 # chi-square with 19 degrees of freedom: p = 1e-4
