"The web page as a newcomer meets it: a server of its own, and a browser that reaches nothing else."
import os, re, signal, socket, subprocess, sys, time
from urllib.parse import urlsplit
import numpy as np, pytest, soundfile as sf
from audioml.beatsaber.level import read_level
from audioml.midi import read_midi, read_pattern
from runs import AUDIOML

pytest.importorskip('gradio', reason='Gradio is not installed: no web page')
LOCAL = '127.0.0.1'

def free_port():
    with socket.socket() as s: s.bind((LOCAL, 0)); return s.getsockname()[1]

@pytest.fixture(scope='module')
def serving(tmp_path_factory):
    "(address, folder of temporary files) of a page served by `audioml app`, which is terminated at the end and leaves nothing behind."
    tmp, port = tmp_path_factory.mktemp('app'), free_port()
    with open(tmp/'log', 'w') as log:
        p = subprocess.Popen([*AUDIOML, 'app', '--port', str(port)], cwd=tmp, stdout=log, stderr=subprocess.STDOUT, env=os.environ | dict(TMPDIR=str(tmp), OMP_NUM_THREADS='1'))
    try:
        deadline = time.monotonic() + 120
        while 'the page is at' not in (tmp/'log').read_text():
            assert p.poll() is None and time.monotonic() < deadline, (tmp/'log').read_text()
            time.sleep(.1)
        yield f'http://{LOCAL}:{port}/', tmp
    finally:
        p.send_signal(signal.SIGTERM)
        try: code = p.wait(30)
        except subprocess.TimeoutExpired: p.kill(); raise
    assert code == 0 and 'Traceback' not in (tmp/'log').read_text(), (tmp/'log').read_text()
    assert not list(tmp.glob('audioml_*'))

class Visit:
    "A tab of a page in a window of its own; `asked` are hosts it asked for, `wrong` what the console complained about."
    def __init__(self, context, url):
        self.asked, self.wrong, self.page = set(), [], context.new_page()
        self.page.set_default_timeout(90_000)
        self.page.on('request', lambda r: self.asked.add(urlsplit(r.url).hostname))
        self.page.on('pageerror', lambda e: self.wrong.append(str(e)))
        self.page.goto(url); self.tab('Drums')
    def tab(self, name): self.page.get_by_role('tab', name=name, exact=True).click()
    def seen(self, what): return what.locator('visible=true')
    def press(self, name): self.seen(self.page.get_by_role('button', name=name)).click()
    def upload(self, path):
        self.page.locator('[role=tabpanel]:visible input[type=file]').set_input_files(path)
        self.seen(self.page.locator('.file-preview')).wait_for()
    def says(self, text): self.seen(self.page.locator('.words')).get_by_text(text).first.wait_for()
    def sees(self): self.seen(self.page.locator('.picture img')).first.wait_for()
    def keep(self, name, to):
        with self.page.expect_download() as d: self.press(name)
        d.value.save_as(to/d.value.suggested_filename); return to/d.value.suggested_filename
    def picture(self, name):
        "For the eyes: where `APP_PICTURES` names a folder."
        if folder := os.environ.get('APP_PICTURES'): self.page.wait_for_timeout(700); self.page.screenshot(path=f'{folder}/{name}.png', full_page=True)

@pytest.fixture(params=[(1200, 900), (375, 740)], ids=['desk', 'phone'])
def visit(request, browser, serving):
    "A visitor, who has asked nobody else and met no fault at the end."
    context = browser.new_context(viewport=dict(zip(('width', 'height'), request.param)), accept_downloads=True)
    v = Visit(context, serving[0]); v.name = request.node.callspec.id
    yield v
    assert v.asked <= {LOCAL, '', None} and not v.wrong, (v.asked, v.wrong)
    assert v.page.evaluate('document.documentElement.scrollWidth <= innerWidth')  # nothing sticks out
    context.close()

@pytest.fixture(scope='module')
def desk(browser, serving):
    "Opens windows at a desk."
    contexts = []
    def opened():
        contexts.append(browser.new_context(viewport=dict(width=1200, height=900), accept_downloads=True))
        return Visit(contexts[-1], serving[0])
    yield opened
    for c in contexts: c.close()

def test_each_tab_as_a_newcomer(visit, tmp_path):
    visit.press('Try an example'); visit.says('strokes'); visit.sees(); visit.picture(f'{visit.name}_drums')
    midi = visit.keep('Keep the MIDI file', tmp_path)
    assert midi.name == 'drums.mid' and len(read_midi(midi)) > 20
    visit.tab('Groove'); visit.press('Make a pattern'); visit.says('4 bars'); visit.sees(); visit.picture(f'{visit.name}_groove')
    pattern = read_pattern(visit.keep('Keep the MIDI file', tmp_path))
    assert round(pattern.tempo) == 100 and len(pattern.notes) > 4
    visit.tab('Piano'); visit.press('Try an example'); visit.says('19 ratings'); visit.sees(); visit.picture(f'{visit.name}_piano')
    assert visit.seen(visit.page.locator('table.ratings tr')).count() == 20
    visit.tab('Codec'); visit.press('Try an example'); visit.says('48,000 Hz'); visit.sees(); visit.picture(f'{visit.name}_codec')
    assert sf.info(str(visit.keep('Keep the FLAC file', tmp_path))).samplerate == 48000
    visit.tab('Beat Saber'); visit.press('Try an example'); visit.says('blocks'); visit.sees(); visit.picture(f'{visit.name}_beatsaber')
    level = read_level(visit.keep('Keep the map', tmp_path))
    assert [d.name for d in level.difficulties] == ['Normal', 'Expert'] and all(len(d.beatmap.notes) > 20 for d in level.difficulties)

BAD = {'shopping.wav': (b'eggs, <b>milk</b>', '“shopping.wav” is not audio that can be read; a wav, flac, ogg or mp3 file.'), 'nothing.mp3': (b'', '“nothing.mp3” is an empty file; a wav, flac, ogg or mp3 file.')}

def test_what_cannot_be_used_is_said_and_the_page_goes_on(visit, tmp_path):
    visit.press('Write down the drums'); visit.says('There is no file yet')
    sf.write(tmp_path/'long.flac', np.zeros(11*60*8000, 'float32'), 8000)
    for name, (data, _) in BAD.items(): (tmp_path/name).write_bytes(data)
    for name, sentence in {k: v for k, (_, v) in BAD.items()}.items() | {'long.flac': '“long.flac” lasts 11:00; 10:00 at most.'}.items():
        visit.upload(tmp_path/name); visit.press('Write down the drums'); visit.says(sentence)
        assert visit.seen(visit.page.locator('.picture img')).count() == 0
        visit.seen(visit.page.get_by_label('Remove file').or_(visit.page.get_by_label('Clear'))).first.click()
    visit.picture(f'{visit.name}_bad')
    visit.press('Try an example'); visit.says('strokes'); visit.sees()
    assert 'Traceback' not in visit.page.content()

def test_a_file_name_is_no_html(desk, tmp_path):
    v = desk(); bad = tmp_path/'<img src=x onerror=alert(1)>.wav'; bad.write_bytes(b'x')
    v.page.on('dialog', lambda d: v.wrong.append(d.message))
    v.upload(bad); v.press('Write down the drums'); v.says('is not audio')
    assert not v.wrong

def test_an_upload_has_a_limit(desk, tmp_path):
    v = desk(); big = tmp_path/'big.wav'
    with open(big, 'wb') as f: f.truncate(129*2**20)
    v.page.locator('[role=tabpanel]:visible input[type=file]').set_input_files(big)
    v.page.get_by_text(re.compile('exceed', re.I)).first.wait_for()
    v.press('Try an example'); v.says('strokes')

def test_several_at_once_get_their_own(desk, tmp_path):
    "Two in one tab wait for each other, a third in another does not; files of one name are kept apart; one seed gives one pattern."
    rng, kept = np.random.default_rng(0), []
    for who, seconds in dict(a=8, b=4).items():
        (tmp_path/who).mkdir(); sf.write(tmp_path/who/'song.wav', rng.normal(size=seconds*8000)*(np.arange(seconds*8000) % 4000 < 400), 8000)
    a, b, c, d = (desk() for _ in range(4))
    for v, who in ((a, 'a'), (b, 'b')): v.upload(tmp_path/who/'song.wav')
    for v in (c, d): v.tab('Groove')
    for v in (a, b): v.press('Write down the drums')
    for v in (c, d): v.press('Make a pattern')
    for i, v in enumerate((c, d)): v.says('4 bars'); (tmp_path/f'{i}').mkdir(); kept.append(v.keep('Keep the MIDI file', tmp_path/f'{i}').read_bytes())
    a.says('in 0:08'); b.says('in 0:04')
    assert kept[0] == kept[1]
