"Laws of folds, intervals and tests, over groups of any size."
import itertools, subprocess, sys
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from audioml.core import *
from audioml.stats import *

SETTINGS = settings(max_examples=100, deadline=None)
sizes = st.lists(st.integers(1, 40), min_size=2, max_size=30)
seeds = st.integers(0, 10**6)


def parts(fold, groups): return {*groups[fold[0]]}, {*groups[fold[1]]}


@SETTINGS
@given(sizes, st.integers(2, 8), seeds)
def test_group_folds_are_whole_balanced_and_do_not_depend_on_the_order_of_rows(sizes, k, seed):
    groups = np.repeat([f'g{i}' for i in range(len(sizes))], sizes)
    if len(sizes) < k:
        with pytest.raises(BadInput, match='cannot fill'): group_folds(groups, k, seed)
        return
    folds = group_folds(groups, k, seed)
    assert len(folds) == k and np.array_equal(np.sort(np.concatenate([b for _, b in folds])), np.arange(len(groups)))
    for a, b in folds:
        assert len(b) and np.array_equal(np.sort(np.r_[a, b]), np.arange(len(groups)))
        assert not set.intersection(*parts((a, b), groups)) and (np.diff(a) > 0).all() and (np.diff(b) > 0).all()
    n_test = [len(b) for _, b in folds]
    assert max(n_test)-min(n_test) <= max(sizes)
    order = derive_rng('order', seed).permutation(len(groups))
    assert all(parts(f, groups) == parts(g, groups[order]) for f, g in zip(folds, group_folds(groups[order], k, seed)))


@SETTINGS
@given(sizes, seeds)
def test_inner_folds_stay_inside_the_training_part(sizes, seed):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    for train, test in leave_one_group_out(groups):
        if len({*groups[train]}) < 2: continue
        inner = inner_folds(train, groups, 2, seed)
        assert np.array_equal(np.sort(np.concatenate([b for _, b in inner])), train)
        assert all(not {*np.r_[a, b]} & {*test} and not set.intersection(*parts((a, b), groups)) for a, b in inner)


@SETTINGS
@given(st.lists(st.floats(0, 1), max_size=6), seeds)
def test_holm_is_the_closure_of_bonferroni(p, seed):
    "A hypothesis is rejected when every set of hypotheses with it in has a small enough minimum."
    def closed(i):
        others = [j for j in range(len(p)) if j != i]
        return max(min(1, (len(s)+1)*min([p[i], *(p[j] for j in s)])) for r in range(len(p)) for s in itertools.combinations(others, r))
    assert np.allclose(holm(p), [closed(i) for i in range(len(p))])
    order = derive_rng('holm', seed).permutation(len(p))
    assert np.array_equal(holm(np.array(p)[order]), holm(p)[order]) and (holm(p) >= p).all()


@SETTINGS
@given(st.lists(st.integers(1, 5), min_size=2, max_size=7), seeds)
def test_exchanging_groups_is_a_sign_test_on_their_sums(sizes, seed):
    groups = np.repeat(np.arange(len(sizes)), sizes); d = derive_rng('signs', seed).normal(size=len(groups))
    sums = np.bincount(groups, d)
    draws = np.array([abs(np.dot(s, sums)) for s in itertools.product((1, -1), repeat=len(sums))])
    p = permutation_test(d, np.zeros_like(d), groups)
    assert np.isclose(p, np.mean(draws >= abs(sums.sum())*(1-1e-10))) and p >= 2/2**len(sizes)
    assert permutation_test(np.zeros_like(d), d, groups) == p # whichever comes first


@SETTINGS
@given(st.lists(st.integers(1, 12), min_size=1, max_size=25), st.floats(.05, .95), seeds)
def test_conformal_width_is_the_smallest_that_weighs_enough(sizes, level, seed):
    groups = np.repeat(np.arange(len(sizes)), sizes); r = derive_rng('widths', seed).normal(size=len(groups))
    if highest_level(len(sizes)) < level-1e-9:
        with pytest.raises(BadInput, match='cannot promise'): GroupConformal().fit(r, groups, level)
        return
    width = GroupConformal().fit(r, groups, level)[0]
    weight = lambda inside: sum(inside[groups == g].mean() for g in range(len(sizes))) / (len(sizes)+1)
    assert weight(abs(r) <= width) >= level-2e-9 and weight(abs(r) < width) < level


@pytest.mark.parametrize('n_groups', (10, 30))
def test_new_groups_are_covered(n_groups, level=.8, n_sets=400):
    "Within three errors of the simulation, and not by being far too wide."
    covered = []
    for i in range(n_sets):
        rng = derive_rng('coverage', n_groups, i); scale, size = rng.lognormal(0, .7, n_groups+50), rng.integers(1, 25, n_groups+50)
        groups = np.repeat(np.arange(n_groups+50), size); r = scale[groups]*(rng.normal(size=n_groups+50)[groups] + .5*rng.standard_t(3, len(groups)))
        width = GroupConformal().fit(r[groups < n_groups], groups[groups < n_groups], level)[0]
        covered.append(np.mean([(abs(r[groups == g]) <= width).mean() for g in range(n_groups, n_groups+50)]))
    error = np.std(covered)/np.sqrt(n_sets)
    assert level - 3*error <= np.mean(covered) <= level + 1/(n_groups+1) + 3*error


def test_intervals_of_few_groups_hold_the_mean():
    holds = []
    for i in range(300):
        rng = derive_rng('few', i); groups = np.repeat(np.arange(12), 8); y = .6*rng.normal(size=12)[groups] + rng.normal(size=96)
        b = cluster_bootstrap(lambda rows: y[rows].mean(), groups, n=300, seed=i); holds.append(b.low <= 0 <= b.high)
    assert .91 <= np.mean(holds) <= .985


def test_no_torch():
    "Statistics of a report do not wait for torch to load."
    subprocess.run([sys.executable, '-c', 'import sys, audioml.stats, audioml.metrics; sys.exit("torch" in sys.modules)'], check=True)
