"A map service on this machine that misbehaves as it is told, for the tests of `audioml.beatsaber.collect`."
import hashlib, io, json, threading, time, zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs
import numpy as np, soundfile as sf

def ogg(seconds=30):
    f = io.BytesIO(); sf.write(f, np.zeros(8000*seconds, 'float32'), 8000, format='OGG', subtype='VORBIS')
    return f.getvalue()

SONG = ogg()

def package(i, n_notes=60, song=SONG, more=()):
    "The zip of a small map, and its hash."
    info = json.dumps(dict(_version='2.1.0', _songName=f'Song {i}', _songAuthorName='Nobody', _levelAuthorName='me', _beatsPerMinute=120, _songFilename='song.egg', _coverImageFilename='cover.png',
        _difficultyBeatmapSets=[dict(_beatmapCharacteristicName='Standard', _difficultyBeatmaps=[dict(_difficulty='Hard', _difficultyRank=5, _beatmapFilename='Hard.dat')])])).encode()
    hard = json.dumps(dict(version='3.3.0', colorNotes=[dict(b=4 + k*.5, x=k % 4, y=k % 3, c=k % 2, d=k % 9) for k in range(n_notes)])).encode()
    f = io.BytesIO()
    with zipfile.ZipFile(f, 'w', zipfile.ZIP_DEFLATED) as zf:
        for name, data in [('Info.dat', info), ('Hard.dat', hard), ('song.egg', song), *more]: zf.writestr(zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0)), data)
    return f.getvalue(), hashlib.sha1(info + hard).hexdigest()

def detail(i, digest, url, **changes):
    return dict(id=f'{i + 1:x}', metadata=dict(bpm=120, duration=30, songName=f'Song {i}', levelAuthorName='me'), stats=dict(score=.95), uploaded='2022-01-02T03:04:05.000Z', automapper=False, declaredAi='None',
        ranked=i % 2 == 0, tags=['tech'], uploader=dict(verifiedMapper=True), versions=[dict(hash=digest, state='Published', downloadURL=f'{url}/zips/{digest}.zip',
        diffs=[dict(characteristic='Standard', difficulty='Hard', nps=2.)])]) | changes

class Service(ThreadingHTTPServer):
    "`n` maps; `faults` is a list of (part of a path, function of the handler) that are used up one by one; `asked` is what was asked for."
    daemon_threads = True
    def __init__(self, n=12):
        super().__init__(('127.0.0.1', 0), Handler)
        self.url, self.zips, self.details, self.faults, self.asked, self.agents, self.gate = f'http://127.0.0.1:{self.server_port}', {}, [], [], [], [], None
        for i in range(n): self.offer(i)
        threading.Thread(target=self.serve_forever, kwargs=dict(poll_interval=.02), daemon=True).start()
    def offer(self, i, data=None, digest=None, **changes):
        made, right = package(i)
        digest = digest or right
        self.zips[digest] = made if data is None else data; self.details.append(detail(i, digest, self.url, **changes))
    def handle_error(self, *args): pass
    def downloads(self): return [a for a in self.asked if a.startswith('/zips/')]

class Handler(BaseHTTPRequestHandler):
    disable_nagle_algorithm = True
    def log_message(self, *args): pass
    def reply(self, body=b'', kind='application/json', status=200, length=None, **headers):
        self.send_response(status)
        for k, v in (dict(Content_Type=kind, Content_Length=len(body) if length is None else length) | headers).items(): self.send_header(k.replace('_', '-'), str(v))
        self.end_headers(); self.wfile.write(body)
    def do_GET(self):
        s = self.server; s.asked.append(self.path); s.agents.append(self.headers.get('User-Agent')); path, _, query = self.path.partition('?')
        q = {k: v[0] for k, v in parse_qs(query).items()}
        fault = next((f for f in s.faults if f[0] in path), None)
        if fault: s.faults.remove(fault); return fault[1](self)
        if path.startswith('/zips/'):
            if s.gate: s.gate(path)
            return self.reply(s.zips[path[6:-4]], 'application/zip') if path[6:-4] in s.zips else self.reply(b'gone', 'text/plain', 404)
        found, n, page = [d for d in s.details if d.get('ranked') or q.get('leaderboard') != 'Ranked'] if 'docs' not in vars(s) else s.docs, int(q.get('pageSize', 20)), int(path.rpartition('/')[2])
        self.reply(json.dumps(dict(docs=found[n*page:n*page + n])).encode())

def answer(*args, **kw): return lambda h: h.reply(*args, **kw)
def hang(seconds): return lambda h: time.sleep(seconds)

def endless(h, status=200, location=None):
    "A body without end, as fast as it is read."
    h.send_response(status); h.send_header('Content-Type', 'application/zip')
    if location: h.send_header('Location', location)
    h.end_headers()
    try:
        while True: h.wfile.write(bytes(1 << 16))
    except OSError: pass

def trickle(h):
    "A body that comes a byte at a time: never silent for long, and never done."
    h.send_response(200); h.send_header('Content-Type', 'application/zip'); h.send_header('Content-Length', '100000'); h.end_headers()
    try:
        for _ in range(1000): h.wfile.write(b'x'); h.wfile.flush(); time.sleep(.02)
    except OSError: pass

def chunked(*parts, kind='application/json', end=True):
    def send(h):
        h.protocol_version = 'HTTP/1.1'; h.send_response(200); h.send_header('Content-Type', kind); h.send_header('Transfer-Encoding', 'chunked'); h.send_header('Connection', 'close'); h.end_headers()
        for p in parts: h.wfile.write(b'%x\r\n%s\r\n' % (len(p), p))
        if end: h.wfile.write(b'0\r\n\r\n')
    return send
