"Laws of window plans, over songs and windows of any length."
import numpy as np
from hypothesis import given, settings, strategies as st
from audioml.windowing import *

SETTINGS = settings(max_examples=200, deadline=None)
lengths, sizes = st.integers(1, 40_000), st.integers(1, 3_000)
ratios = st.floats(0, .95)
configs = st.builds(SlidingWindowConfig, windows_per_song=st.integers(1, 30), window_jitter_ratio=ratios, inference_overlap_ratio=ratios,
                    sequence_length=st.integers(1, 4), enable_sequential_windows=st.booleans())
# a window is never so small beside the song that a plan has thousands of starts
songs = st.tuples(lengths, sizes).filter(lambda ls: ls[0] <= 60*ls[1])


@SETTINGS
@given(songs, configs, st.integers(0, 10**6), st.text(max_size=8), st.integers(0, 10**6))
def test_training_covers_every_frame(song, cfg, epoch, song_id, seed):
    n_frames, size = song
    if n_frames > 60*size*(1-cfg.window_jitter_ratio): return
    starts = train_plan(n_frames, size, cfg, epoch, song_id, seed)
    assert starts.dtype == np.int64 and len(starts) == n_train_windows(n_frames, size, cfg) >= cfg.windows_per_song
    assert coverage(starts, size, n_frames).min() >= 1
    if n_frames >= size: assert starts.min() == 0 and starts.max() == n_frames-size # no padding
    else: assert starts.max() <= 0 and starts.min() >= n_frames-size                # the whole song in each
    assert np.array_equal(starts, train_plan(n_frames, size, cfg, epoch, song_id, seed))


def test_the_song_of_338_seconds():
    "The acceptance case: every frame in every epoch, with the defaults."
    cfg = SlidingWindowConfig(); size = cfg.frames(100)
    seen = [coverage(train_plan(33_800, size, cfg, epoch, 'song'), size, 33_800).min() for epoch in range(200)]
    assert min(seen) >= 1


def test_windows_do_not_need_each_other():
    "A window is the same whether it is asked for alone, first or last."
    cfg = SlidingWindowConfig(); plan = train_plan(33_800, 2_000, cfg, 3, 'song', seed=5)
    assert [train_start(33_800, 2_000, cfg, 3, 'song', i, seed=5) for i in reversed(range(len(plan)))] == plan[::-1].tolist()


@SETTINGS
@given(songs, ratios)
def test_fixed_plans_cover_every_frame(song, overlap):
    n_frames, size = song
    if n_frames > 60*hop_of(size, overlap): return
    starts = fixed_plan(n_frames, size, overlap)
    assert coverage(starts, size, n_frames).min() >= 1
    assert starts[0] == 0 and starts[-1] == max(0, n_frames-size)
    assert np.all(np.diff(starts) > 0) and len(starts) == n_windows(n_frames, size, hop_of(size, overlap))


@SETTINGS
@given(songs, configs)
def test_sequences_cover_every_frame(song, cfg):
    n_frames, size = song
    cfg = cfg.replace(enable_sequential_windows=True)
    span = sequence_size(size, cfg)
    if n_frames > 60*span*(1-cfg.window_jitter_ratio): return
    starts = [sequence_starts(s, size, cfg) for s in train_plan(n_frames, span, cfg, 0, 'song')]
    assert coverage(np.concatenate(starts), size, n_frames).min() >= 1
    assert all(s[-1]+size == s[0]+span for s in starts)


@SETTINGS
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30), st.integers(1, 6))
def test_groups_hold_every_window_in_order(starts, length):
    groups = sequence_plan(sorted(starts), length)
    assert set(groups.ravel().tolist()) == set(starts)
    assert groups.shape[1] == length and np.all(np.diff(groups, axis=1) >= 0)


@SETTINGS
@given(st.integers(0, 50), st.integers(-100, 100), st.integers(1, 60), st.integers(0, 2))
def test_cut_agrees_with_padding_first(n, start, size, axes):
    x = np.random.default_rng(0).normal(size=(n, *[3]*axes)).astype(np.float32)
    window, mask = cut(x, start, size, pad_value=-1)
    padded = np.pad(x, [(200, 200)] + [(0, 0)]*axes, constant_values=-1)
    assert window.dtype == x.dtype and np.array_equal(window, padded[200+start:200+start+size])
    assert np.array_equal(mask, (np.arange(start, start+size) >= 0) & (np.arange(start, start+size) < n))


@SETTINGS
@given(st.integers(1, 30), st.integers(1, 10), st.floats(0, .9))
def test_windows_put_together_give_the_song(n, size, overlap):
    x, out = np.arange(n)+1, np.zeros(n, int)
    for s in fixed_plan(n, size, overlap):
        window, mask = cut(x, s, size)
        out[s:s+mask.sum()] = window[mask]
    assert np.array_equal(out, x)


@SETTINGS
@given(st.dictionaries(st.sampled_from('abcd'), st.integers(1, 12), min_size=1), st.integers(0, 3), st.integers(1, 20), st.integers(1, 7))
def test_aligned_slices_join_to_the_streams(ratios, context, steps, k):
    slices = AlignedSlices(ratios, context)
    streams = {name: np.arange(1, 1+steps*r) for name, r in ratios.items()}
    parts = [slices.crop(slices.cut(streams, s, min(k, steps-s))) for s in range(0, steps, k)]
    for name in streams: assert np.array_equal(np.concatenate([p[name] for p in parts]), streams[name])
    assert slices.n_steps({name: len(x) for name, x in streams.items()}) == steps


@SETTINGS
@given(st.dictionaries(st.sampled_from('abcd'), st.fractions(min_value='1/1000', max_value=200_000, max_denominator=1000), min_size=1))
def test_ratios_keep_the_rates(rates):
    "Rows a step over rows a second is one base rate for all, and no faster one exists."
    slices = AlignedSlices.from_rates(rates)
    assert len({rates[k]/r for k, r in slices.ratios.items()}) == 1
    assert np.gcd.reduce(list(slices.ratios.values())) == 1
