"Collecting maps from a service that misbehaves, through kills, and with hostile answers."
import hashlib, io, json, os, signal, subprocess, sys, threading, time, zipfile
from pathlib import Path
import pytest
from audioml.core import BadInput
from audioml.beatsaber.collect import Client, Unreachable, Wanted, check_package, collect, collection, map_entry
from beatsaber_service import SONG, Service, answer, chunked, detail, endless, hang, ogg, package, trickle

class Clock:
    "A clock that moves when somebody sleeps."
    def __init__(self): self.t, self.naps = 0., []
    def __call__(self): return self.t
    def sleep(self, s): self.t += s; self.naps.append(s)

@pytest.fixture
def service():
    s = Service(); yield s
    s.shutdown(); s.server_close()

@pytest.fixture
def client(service):
    clock = Clock()
    return Client(service.url, clock=clock, sleep=clock.sleep, timeout=.3, retries=3)

ANY = Wanted(dict(any=5))
NOW = 'Thu, 01 Jan 2026 00:00:00 GMT'

def files(folder): return {p.name: p.read_bytes() for p in Path(folder).iterdir()}
def zips(folder): return sorted(p.stem for p in Path(folder).glob('[0-9a-f]*.zip'))
def hash_of(service, i): return service.details[i]['versions'][0]['hash']

def test_fetches_checks_and_names_itself(service, client, tmp_path):
    done = collect(ANY, tmp_path/'c', client, progress=False)
    assert zips(tmp_path/'c') == sorted(hash_of(service, i) for i in range(5)) and done.there == dict(any=5) and not done.failed
    assert all(a.startswith('audioml/') for a in service.agents)
    assert set(files(tmp_path/'c')) == {*(f'{h}.zip' for h in zips(tmp_path/'c')), 'maps.jsonl', 'wanted.json', '.lock'}

@pytest.mark.parametrize('fault, waits', [
    (answer(b'slow', 'text/plain', 429, Retry_After='7'), 7), (answer(b'slow', 'text/plain', 429, Retry_After=NOW), 30), (answer(b'', 'text/plain', 503, Retry_After='100000'), 120),
    (answer(b'oh', 'text/plain', 500), None), (answer(b'oh', 'text/html', 502, Retry_After='soon'), None), (hang(.6), None), (answer(b'PK', 'json-zip', length=5000), None), (chunked(b'{"docs"', kind='json-zip', end=False), None),
    (lambda h: h.wfile.write(b'no http at all\r\n\r\n'), None), (lambda h: h.wfile.write(b''), None)], ids='seconds date day 500 502 hang torn chunk garbage nothing'.split())
@pytest.mark.parametrize('place', ['/search', '/zips'])
def test_asks_again_later(service, client, tmp_path, fault, waits, place):
    client.now = lambda: 1767225570. # half a minute before NOW
    service.faults = [(place, fault)]
    done = collect(ANY, tmp_path/'c', client, progress=False)
    assert done.there == dict(any=5) and not done.failed and not done.skipped
    longest = max(client.clock.naps)
    assert longest == waits if waits else .5 <= longest <= 1

def test_a_service_that_is_gone_is_said_in_one_line_and_nothing_is_lost(service, client, tmp_path):
    service.faults = [(hash_of(service, i), answer(b'', 'text/plain', 500)) for i in range(2, 12) for _ in range(4)]
    with pytest.raises(Unreachable, match='5 maps in a row .* answers 500, 4 times') as e: collect(Wanted(dict(any=9)), tmp_path/'c', client, progress=False)
    assert '\n' not in str(e.value) and len(zips(tmp_path/'c')) == 2
    service.faults = []; service.asked.clear()
    assert collect(Wanted(dict(any=9)), tmp_path/'c', client, progress=False).there == dict(any=9) and len(service.downloads()) == 7

def test_one_map_that_fails_is_reported_and_tried_in_the_next_run(service, client, tmp_path):
    service.faults = [(hash_of(service, 1), answer(b'', 'text/plain', 500))]*4
    done = collect(ANY, tmp_path/'c', client, progress=False)
    assert list(done.failed) == ['2'] and 'answers 500, 4 times' in done.failed['2'] and done.there == dict(any=5)
    more = collect(Wanted(dict(any=6)), tmp_path/'c', client, progress=False)
    assert more.fetched == ['2']

def test_nobody_listens(tmp_path):
    clock = Clock(); client = Client('http://127.0.0.1:9', clock=clock, sleep=clock.sleep, retries=2)
    with pytest.raises(Unreachable, match='cannot be reached .*, 3 times'): collect(ANY, tmp_path/'c', client, progress=False)

@pytest.mark.parametrize('fault, why', [
    (answer(b'<html>Just a moment...</html>', 'text/html'), 'sends text/html; json'), (answer(b'{"docs": [', ), 'is not JSON'), (answer(b'\xff\xfe\x00', ), 'is not JSON'), (answer(b'[]'), 'no JSON object'), (answer(b'{"docs": 3}'), 'docs is'),
    (answer(b'{}'), 'docs is'), (answer(b'{"docs": ' + b'['*100_000), 'nested too deep'), (answer(b'{"docs": [NaN]}'), 'is not JSON'), (answer(b' '*(17 << 20)), 'more than 16 MB'), (answer(b'', 'text/plain', 404), 'answers 404'),
    (answer(b'', 'text/plain', 403), 'answers 403'), (answer(b'{}', Content_Encoding='gzip'), 'is compressed'), (answer(b'', 'text/plain', 302, Location='http://127.0.0.1:9/x'), 'the same host, or https'),
    (answer(b'', 'text/plain', 302, Location='file:///etc/passwd'), 'the same host, or https'), (answer(b'', 'text/plain', 302, Location='ftp://x/y'), 'the same host, or https'), (answer(b'', 'text/plain', 302, Location='http://[x'), 'leads to')],
    ids='html cut bytes list shape empty deep nan large 404 403 gzip host file ftp bad'.split())
def test_an_answer_of_no_use_is_named_at_once(service, client, tmp_path, fault, why):
    service.faults = [('/search', fault)]
    with pytest.raises(BadInput, match=why) as e: collect(ANY, tmp_path/'c', client, progress=False)
    assert '\n' not in str(e.value) and len(str(e.value)) < 400 and len(service.asked) == 1 and not isinstance(e.value, Unreachable)

def test_redirects_on_the_host_are_followed_but_not_in_circles(service, client, tmp_path):
    service.faults = [('/search', answer(b'', 'text/plain', 301, Location='/elsewhere/search/text/0?pageSize=100'))]
    assert collect(ANY, tmp_path/'c', client, progress=False).there == dict(any=5)
    service.faults = [('/search', answer(b'', 'text/plain', 302, Location='/search/text/0'))]*9
    with pytest.raises(BadInput, match='on and on, 5 times'): collect(Wanted(dict(any=6)), tmp_path/'c', client, progress=False)

def test_a_redirect_with_a_body_without_end(service, client, tmp_path):
    service.faults = [('/search', lambda h: endless(h, 302, '/search/text/0?pageSize=100'))]
    assert collect(ANY, tmp_path/'c', client, progress=False).there == dict(any=5)

def test_bodies_without_end(service, client, tmp_path):
    service.faults = [('/zips', endless)]
    done = collect(ANY, tmp_path/'c', client, progress=False)
    assert list(done.failed.values())[0].endswith('sends more than 64 MB') and done.there == dict(any=5)

def test_bodies_that_trickle(service):
    client = Client(service.url, patience=.2, retries=1, backoff=.01, per_second=1000.)
    service.faults = [('/zips', trickle)]*2
    start = time.monotonic()
    with pytest.raises(Unreachable, match='takes longer than 0.2 s, 2 times'): client.ask(service.details[0]['versions'][0]['downloadURL'], kinds=('zip',))
    assert time.monotonic() - start < 3

def test_a_chunked_answer_is_read_whole(service, client):
    service.faults = [('/x', chunked(b'{"a"', b': 1', b'}'))]
    assert client.ask(f'{service.url}/x') == b'{"a": 1}'

def test_no_more_than_so_many_a_second(service, tmp_path):
    client, start = Client(service.url, per_second=25.), time.monotonic()
    collect(ANY, tmp_path/'c', client, progress=False)
    assert time.monotonic() - start >= (len(service.asked) - 1)/25 and len(service.asked) == 6

def test_maps_of_no_use_are_skipped_for_good(service, client, tmp_path):
    twin = io.BytesIO(); zipfile.ZipFile(twin, 'w').writestr('../../evil.dat', 'x')
    bad = {'torn': package(50)[0][:-60], 'page': b'<html>', 'traversal': twin.getvalue() + b'', 'few': package(51, 5)[0], 'short': package(52, song=ogg(10))[0], 'noise': package(53, song=b'OggS' + bytes(99))[0], 'other': package(54)[0]}
    with zipfile.ZipFile(twin, 'w') as zf: zf.writestr('../../evil.dat', 'x'); zf.writestr('Info.dat', '{}')
    bad['traversal'] = twin.getvalue()
    right = dict(few=package(51, 5)[1], short=package(52)[1], noise=package(53)[1])
    service.details.clear()
    for i, (name, data) in enumerate(bad.items()): service.offer(50 + i, data, right.get(name, hashlib.sha1(name.encode()).hexdigest()))
    service.offer(1)
    done = collect(ANY, tmp_path/'c', client, progress=False)
    assert done.there == dict(any=1) and [why for _, why in zip(done.skipped.values(), bad)] and len(done.skipped) == len(bad) and not done.failed
    for (name, why), said in zip(dict(torn='no zip', page='no zip', traversal='leads out', few='5 onsets', short='lasts 10.0 s', noise='no song', other='has the hash').items(), done.skipped.values()): assert why in said, name
    service.asked.clear(); again = collect(ANY, tmp_path/'c', client, progress=False)
    assert again.skipped == done.skipped and service.downloads() == [] and zips(tmp_path/'c') == [hash_of(service, -1)]
    assert [p for p in tmp_path.rglob('*') if 'evil' in p.name] == [] and not list((tmp_path/'c').glob('.*zip*'))

def test_hostile_entries_touch_no_file(service, client, tmp_path):
    url = service.url; before = len(service.details); h = hash_of(service, 0)
    version = service.details[0]['versions'][0]
    hostile = [dict(id='../../x'), dict(id=None), dict(id=3), dict(id='f'*99), dict(versions=[version | dict(hash='../../../../tmp/x')]), dict(versions=[version | dict(hash=h[:-1] + '\n')]), dict(versions=[version | dict(hash=None)]),
               dict(versions=[version | dict(downloadURL='file:///etc/passwd', hash='1'*40)], id='e1'), dict(versions=[version | dict(downloadURL='http://127.0.0.1:9/x.zip', hash='2'*40)], id='e2'),
               dict(versions=[version | dict(downloadURL='', hash='3'*40)], id='e3'), dict(versions=[version | dict(downloadURL='https://\udc80/x', hash='4'*40)], id='e4'), dict(versions=[version | dict(downloadURL=7)]), dict(versions={}), dict(versions=[[]]), dict(uploaded=5),
               dict(stats=[]), dict(metadata=dict(bpm='fast')), dict(tags={}), dict(uploader=[])]
    service.docs = [service.details[0] | c for c in hostile] + [None, 3, [], 'x'] + service.details
    done = collect(ANY, tmp_path/'c', client, progress=False)
    assert done.there == dict(any=5) and len(done.failed) + len(done.skipped) == len(hostile) + 4 and set(done.failed) == {'e1', 'e2', 'e3', 'e4'}
    assert all('\n' not in w for w in (*done.failed.values(), *done.skipped.values())) and '\x1b' not in repr(done)
    assert {p.name for p in tmp_path.iterdir()} == {'c'} and set(zips(tmp_path/'c')) == {hash_of(service, i) for i in range(5)}

def test_pages_that_repeat_or_are_empty_end_the_search(service, client, tmp_path):
    page = json.dumps(dict(docs=service.details[:3])).encode()
    service.faults = [('/search', answer(page))]*50
    done = collect(ANY, tmp_path/'c', client, progress=False)
    assert done.there == dict(any=3) and len([a for a in service.asked if 'search' in a]) == 4
    service.faults = [('/search', answer(b'{"docs": []}'))]; service.asked.clear()
    assert collect(ANY, tmp_path/'c', client, progress=False).there == dict(any=3) and len(service.asked) == 1

def test_maps_pushed_to_the_next_page_are_taken_once(service, client, tmp_path):
    d = service.details
    service.faults = [('/search', answer(json.dumps(dict(docs=p)).encode())) for p in (d[:3], d[2:5], [*d[4:6], d[5]], [])]
    assert collect(Wanted(dict(any=9)), tmp_path/'c', client, progress=False).there == dict(any=6)
    assert len(service.downloads()) == 6 == len(set(service.downloads()))

def test_quotas_in_their_order_and_a_map_counts_once(service, client, tmp_path):
    wanted = Wanted({'ranked': 3, 'tag:tech': 4, 'verified': 2})
    assert collect(wanted, tmp_path/'c', client, progress=False).there == {'ranked': 3, 'tag:tech': 4, 'verified': 2}
    table = collection(tmp_path/'c')
    assert len(table) == 9 == table.hash.nunique() and set(table.split) <= {'train', 'valid', 'test'} and table.category.tolist() == ['ranked']*3 + ['tag:tech']*4 + ['verified']*2

def test_ours_is_the_last_word_about_machines(service, client, tmp_path):
    service.details[0] |= dict(declaredAi='Uploader'); service.details[1] |= dict(automapper=True)
    done = collect(ANY, tmp_path/'c', client, progress=False)
    assert done.skipped == {'1': 'made by a machine', '2': 'made by a machine'} and 'automapper' not in service.asked[0]
    collect(Wanted(dict(any=2), with_ai=True), tmp_path/'d', client, progress=False)
    assert zips(tmp_path/'d') == sorted(hash_of(service, i) for i in range(2))

def test_two_collectors_in_one_folder(service, client, tmp_path):
    code = 'import sys; from audioml.core import locked; import time\nwith locked(sys.argv[1]): print("in", flush=True); time.sleep(30)'
    other = subprocess.Popen([sys.executable, '-c', code, str(tmp_path/'c')], stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        with pytest.raises(BadInput, match='another process'): collect(ANY, tmp_path/'c', client, progress=False)
    finally: other.kill(); other.wait(); other.stdout.close()
    assert collect(ANY, tmp_path/'c', client, progress=False).there == dict(any=5)

@pytest.mark.parametrize('line, why', [(b'{"hash": "../../x", "category": "any"}\n', 'names no map'), (b'garbage\n', 'is not JSON'), (b'[]\n', 'holds no JSON object')])
def test_a_damaged_journal_is_named(service, client, tmp_path, line, why):
    collect(ANY, tmp_path/'c', client, progress=False)
    journal = tmp_path/'c'/'maps.jsonl'; journal.write_bytes(line + journal.read_bytes())
    with pytest.raises(BadInput, match=f'maps.jsonl line 1: {why}'): collect(ANY, tmp_path/'c', client, progress=False)

def test_a_zip_that_was_taken_away_is_fetched_again(service, client, tmp_path):
    collect(ANY, tmp_path/'c', client, progress=False); before = files(tmp_path/'c')
    victim = hash_of(service, 2); (tmp_path/'c'/f'{victim}.zip').unlink(); service.asked.clear()
    collect(ANY, tmp_path/'c', client, progress=False)
    assert service.downloads() == [f'/zips/{victim}.zip'] and zips(tmp_path/'c') == sorted(n[:-4] for n in before if n.endswith('.zip'))
    assert len(collection(tmp_path/'c')) == 5

RUN = '''
import sys
from audioml.beatsaber.collect import Client, Wanted, collect
collect(Wanted(dict(ranked=4, any=5)), sys.argv[1], Client(sys.argv[2], per_second=1000.), progress=False)
'''

def start(folder, url): return subprocess.Popen([sys.executable, '-c', RUN, str(folder), url])

def test_killed_at_any_moment_and_resumed_equals_undisturbed(service, tmp_path):
    collect(Wanted(dict(ranked=4, any=5)), tmp_path/'calm', Client(service.url, per_second=1000.), progress=False)
    service.asked.clear()
    for k in (3,): # while the body of a zip is on its way
        reached, go = threading.Event(), threading.Event(); n = [0]
        def gate(path):
            n[0] += 1
            if n[0] > k: reached.set(); go.wait(10)
        service.gate = gate; run = start(tmp_path/'killed', service.url)
        assert reached.wait(30); run.send_signal(signal.SIGKILL); run.wait(); service.gate = None; go.set()
        whole = zips(tmp_path/'killed'); service.asked_before = list(service.downloads())
        for h in whole: check_package(tmp_path/'killed'/f'{h}.zip', hash=h)
    kept = set(zips(tmp_path/'killed')); service.asked.clear()
    collect(Wanted(dict(ranked=4, any=5)), tmp_path/'killed', Client(service.url, per_second=1000.), progress=False)
    assert files(tmp_path/'killed') == files(tmp_path/'calm') and not {a[6:-4] for a in service.downloads()} & kept

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='forks')
def test_killed_before_every_step_on_the_disk(service, tmp_path):
    "A process for each place where a kill can come: before each sync, rename and change of mode of the first maps."
    wanted = Wanted(dict(ranked=2, any=2)); new = lambda: Client(service.url, per_second=1000.)
    collect(wanted, tmp_path/'calm', new(), progress=False); calm = files(tmp_path/'calm')
    def run(folder, at):
        steps = 0
        def dying(f):
            def g(*args, **kw):
                nonlocal steps
                steps += 1
                if steps == at: os.kill(os.getpid(), signal.SIGKILL)
                return f(*args, **kw)
            return g
        os.fsync, os.replace, os.chmod = map(dying, (os.fsync, os.replace, os.chmod))
        collect(wanted, folder, new(), progress=False)
    for at in range(1, 100):
        folder = tmp_path/f'k{at}'; pid = os.fork()
        if pid == 0:
            try: run(folder, at); os._exit(0)
            except BaseException: os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code == 0: break
        assert code == -signal.SIGKILL
        kept, _ = set(zips(folder)), service.asked.clear()
        for h in kept: check_package(folder/f'{h}.zip', hash=h)
        collect(wanted, folder, new(), progress=False)
        assert files(folder) == calm and not {a[6:-4] for a in service.downloads()} & kept, at
    assert 15 < at < 40

def test_a_full_disk_is_said_in_one_line(service, client, tmp_path, monkeypatch):
    from audioml.beatsaber import collect as module
    class Full:
        def __enter__(self): raise OSError(28, 'No space left on device')
        def __exit__(self, *a): pass
    monkeypatch.setattr(module, 'atomic_path', lambda path: Full())
    with pytest.raises(BadInput, match='cannot be written to .No space left on device'): collect(ANY, tmp_path/'c', client, progress=False)
    monkeypatch.undo(); assert collect(ANY, tmp_path/'c', client, progress=False).there == dict(any=5)
