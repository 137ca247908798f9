"""Reading a map of 10,000 notes and running all checks on it. Prints one line of JSON.

The map is random: dense enough that every check has much to find. It is written as a version 3 file, read again, and checked.
The yardstick is the same in plain Python, note after note: parity by walking through both hands, and vision blocks by looking
back from each note. Both must find what the vectorised checks find. The best of several rounds counts, so that neighbours on
the machine do not.
"""
import json, sys, time
import numpy as np
from audioml.core import derive_rng
from audioml.beatsaber.beatmap import Beatmap, make_table, read_beatmap, write_beatmap
from audioml.beatsaber.flow import check_flow, errors_by_check, find_flow, parity_errors, vision_blocks

N_NOTES, ROUNDS, TARGET = 10_000, 5, 1.


def random_map(n):
    rng = derive_rng('bench_maps')
    cells = lambda k: dict(beat=rng.integers(0, 4*n, k)/16, x=rng.integers(0, 4, k), y=rng.integers(0, 3, k))
    return Beatmap(make_table('notes', **cells(n), color=rng.integers(0, 2, n), direction=rng.integers(0, 9, n)), make_table('bombs', **cells(n//10)),
                   make_table('walls', **cells(n//20), duration=1., height=5), make_table('arcs', **cells(n//20), tail_beat=rng.integers(0, 4*n, n//20)/16),
                   make_table('chains', **cells(n//20), tail_x=2), make_table('events', beat=rng.integers(0, 4*n, 2*n)/16, type=1, value=5), bpm=160.)


def plain_swings(m, color):
    "First and last note of each swing of a hand, beats and seconds of both, and its notes' directions."
    beats, seconds, directions, groups = m.notes['beat'].tolist(), m.seconds(m.notes['beat']).tolist(), m.notes['direction'].tolist(), []
    for i, c in enumerate(m.notes['color'].tolist()):
        if c != color: continue
        if groups and (beats[i]-beats[groups[-1][-1]] <= 1/8 + 1e-6 or seconds[i]-seconds[groups[-1][-1]] <= .07 + 1e-6): groups[-1].append(i)
        else: groups.append([i])
    return [(g[0], beats[g[0]], beats[g[-1]], seconds[g[0]], seconds[g[-1]], [directions[i] for i in g]) for g in groups]


NOT = {(1, 1): {0, 5}, (1, -1): {1, 6}, (0, 1): {0, 4}, (0, -1): {1, 7}} # hand and side: cut directions that do not go


def plain_parity(m):
    errors = []
    for color in (0, 1):
        bombs = sorted((b, x == 1+color, y) for b, x, y in zip(m.bombs['beat'].tolist(), m.bombs['x'].tolist(), m.bombs['y'].tolist()) if x in (1, 2) and y in (0, 2))
        mine, k = plain_swings(m, color), 0
        one_way = [[1 if d in NOT[color, -1] else -1 for d in g[5] if d in NOT[color, 1] | NOT[color, -1]] for g in mine]
        side, rest_until = 0, -np.inf
        for n, (first, begin, end, start, stop, _) in enumerate(mine):
            while k < len(bombs) and bombs[k][0] < begin - 1/128: k += 1
            bomb = bombs[k-1] if k else (-np.inf, False, 0)
            reset = 0 if n and bomb[0] <= mine[n-1][2] + .25 + 1/128 or not k else 1 if bomb[2] == 0 else -1
            free, can = start - rest_until > 1 + 1e-6, set(one_way[n])
            if free and not can and not reset:
                side, sign = 1, 1
                for j in range(n+1, len(mine)):
                    sign = -sign
                    if mine[j][3] - mine[j-1][4] > 1 + 1e-6: break
                    sure = one_way[j][0] if one_way[j] else bomb_side(bombs, mine, j)
                    if sure: side = sure*sign; break
            else:
                wanted = reset or -side
                side = one_way[n][0] if can else wanted
                if len(can) == 2 or can and not free and side != wanted: errors.append(first)
            rest_until = stop
    return sorted(errors)


def bomb_side(bombs, mine, j):
    before = [b for b in bombs if mine[j-1][2] + .25 + 1/128 < b[0] < mine[j][1] - 1/128]
    return 0 if not before else 1 if before[-1][2] == 0 else -1


def plain_vision(m, soon=.1, late=.5):
    notes, pairs = list(zip(m.seconds(m.notes['beat']).tolist(), m.notes['x'].tolist(), m.notes['y'].tolist())), []
    for i, (t, x, _) in enumerate(notes):
        inner = 1 if x < 2 else 2
        for j in range(i-1, -1, -1):
            if t - notes[j][0] > late + 1e-6: break
            if t - notes[j][0] >= soon - 1e-6 and notes[j][1:] == (inner, 1): pairs.append([j, i]); break
    return sorted(pairs)


def best(f, rounds=ROUNDS):
    times = []
    for _ in range(rounds):
        start = time.perf_counter(); out = f(); times.append(time.perf_counter()-start)
    return min(times), out


def main():
    m = random_map(N_NOTES)
    data = write_beatmap(m)
    parse, back = best(lambda: read_beatmap(data, bpm=m.bpm))
    assert back == m
    find, found = best(lambda: find_flow(back))
    count, _ = best(lambda: errors_by_check(back))
    say, findings = best(lambda: check_flow(back, njs=18.))
    vector, (parity, vision) = best(lambda: (parity_errors(back), vision_blocks(back)))
    plain, (slow_parity, slow_vision) = best(lambda: (plain_parity(back), plain_vision(back)))
    assert slow_parity == parity.tolist() and slow_vision == vision.tolist() and len(parity) > 100 and len(vision) > 100
    ms = lambda t: round(t*1000, 1)
    result = dict(name='maps', notes=N_NOTES, file_mb=round(len(data)/1e6, 2), read_ms=ms(parse), find_ms=ms(find), count_ms=ms(count), sentences_ms=ms(say), findings=len(findings),
                  two_checks_ms=ms(vector), plain_python_ms=ms(plain), ratio=round(plain/vector, 1), total_s=round(parse+say, 3), target_s=TARGET)
    print(json.dumps(result))
    return 0 if result['total_s'] < TARGET else 1


if __name__ == '__main__': sys.exit(main())
