"The documentation site: a small one is built of two notebooks and read in a browser, and the parts that find faults find them."
import os, re, threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
import nbformat, pytest

pytest.importorskip('furo', reason='the renderer of the site is not installed')
import docsite
from docsite import check, constants, describe, docname, link_files, link_names, myst, navigation, notebooks, quarto, resolve, sidebar, symbols, table
from runs import audioml

PAGES = ['index.ipynb', '00_core.ipynb', '14_windowing.ipynb', '95_cli.ipynb']

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The site of `PAGES`, as `make docs` would build it."
    from nbdev.processors import FilterDefaults
    from nbdev.serve_drv import main
    tmp = tmp_path_factory.mktemp('docs')
    (tmp/'proc').mkdir()
    old = os.getcwd(); os.chdir(docsite.root)
    try:
        for p in PAGES: main((docsite.root/'nbs'/p, tmp/'proc'/p, FilterDefaults))
        docsite.render(PAGES, tmp/'proc', tmp/'src', tmp/'site', jobs=1)
    finally: os.chdir(old)
    return tmp/'site'

def test_the_small_site_has_no_fault_and_every_name(site):
    names = [f'{m}.{n}' for m in ('audioml.core', 'audioml.windowing') for n in symbols(m).all]
    assert len(names) > 30 and 'audioml.core.AUDIO_SUFFIXES' in names
    assert check(site, names) == []

def test_an_entry_has_signature_table_and_source(site):
    from bs4 import BeautifulSoup
    page = BeautifulSoup((site/'windowing.html').read_text(), 'html.parser')
    entry = page.find(id='audioml.windowing.n_windows').parent
    assert [c.get_text() for c in entry.select('table tr:nth-of-type(2) td')] == ['size', 'int', 'length of a window, frames']
    assert entry.select('table tr')[-1].get_text(' ', strip=True).startswith('Returns int')
    source = entry.select_one('a:has(.viewcode-link)')['href']
    file, _, part = source.partition('#')
    assert BeautifulSoup((site/file).read_text(), 'html.parser').find(id=part).get_text().lstrip().startswith('[docs]')
    assert page.select_one('math mi') and not page.select('script[src*="//"]')  # formulas without a script
    assert page.select('.cell_output img') and page.select_one('h1').get_text().startswith('Windowing')
    links = [a['href'] for a in page.select('article a.reference.internal')]
    assert 'core.html#audioml.core.BadInput' in links

@pytest.fixture(scope='module')
def address(site):
    "Where the site is served."
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *a): pass
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown(); server.server_close()

def test_search_finds_a_function(address, browser):
    for width in (1280, 390):
        page, asked, wrong = browser.new_page(viewport=dict(width=width, height=800)), [], []
        page.set_default_timeout(60_000)
        page.on('request', lambda r: asked.append(r.url)); page.on('pageerror', lambda e: wrong.append(str(e)))
        page.goto(f'{address}/search.html?q=n_windows')
        hit = page.locator('#search-results li a[href*="audioml.windowing.n_windows"]').first
        hit.click(); page.wait_for_url('**/windowing.html*')
        assert page.locator('[id="audioml.windowing.n_windows"]').is_visible()
        assert page.evaluate('document.documentElement.scrollWidth <= innerWidth')  # nothing sticks out
        assert all(u.startswith((address, 'data:')) for u in asked) and not wrong, (asked, wrong)  # nothing from elsewhere
        page.close()

def helped(*words):
    "Commands below `words`, as their help lists them."
    said = audioml(*words, '--help').stdout.partition('\nCommands:\n')[2]
    names = re.findall(r'^  ([a-z]+)  ', said, re.M)
    return {c for n in names for c in helped(*words, n)} if names else {' '.join(words)}

def codes_of(markdown): return re.findall(r'```.*?```|`[^`\n]+`', markdown, re.S)
def named(codes): return {c for code in codes for c in re.findall(r'\baudioml ([a-z]+(?: [a-z]+)?)', code)}

def test_help_readme_and_site_name_the_same_commands(site):
    from bs4 import BeautifulSoup
    commands = helped()
    assert len(commands) > 10 and {'version', 'drums transcribe', 'runs sweep'} <= commands
    codes = lambda page: [c.get_text() for c in BeautifulSoup((site/page).read_text(), 'html.parser').select('article code, article pre')]
    assert named(codes_of((docsite.root/'README.md').read_text())) == commands
    assert named(codes('index.html')) == commands
    assert {name for c in codes('cli.html') if (name := c.removeprefix('audioml ')) in commands} == commands
    everywhere = [docsite.root/'CONTRIBUTING.md', *(docsite.root/'audioml'/'bundles').rglob('*.md')]
    texts = [f.read_text() for f in everywhere] + [c['source'] for p in notebooks() for c in nbformat.read(docsite.root/'nbs'/p, 4).cells if c.cell_type == 'markdown']
    assert named(code for t in texts for code in codes_of(t)) <= commands | {c.split()[0] for c in commands}

def test_every_notebook_is_in_one_section():
    paths = notebooks()
    nav = navigation(paths)
    listed = [p for r in nav for p in r[3]]
    assert sorted(listed + ['index.ipynb']) == sorted({p for p in paths if not p.endswith('/index.ipynb')} | {'index.ipynb'})
    titles = [r[1] for r in nav]
    assert {'Drum transcription', 'Drum patterns', 'Piano ratings', 'Codec', 'Beat Saber maps', 'Shared floors', 'Runs'} <= set(titles)
    assert not any(r[0] == 'runs' for r in navigation([p for p in paths if not p.startswith('runs/')]))
    assert len({docname(p) for p in paths}) == len(paths)  # no page hides another
    with pytest.raises(SystemExit, match='in no section'): navigation(['elsewhere/03_new.ipynb'])

def test_quarto_has_the_same_navigation():
    paths, flat = notebooks(), []
    def walk(items):
        for i in items: walk(i['contents']) if isinstance(i, dict) else flat.append(i)
    walk(sidebar(paths)['website']['sidebar']['contents'])
    assert flat == ['index.ipynb', *(p for r in navigation(paths) for p in r[3])]

FAULTS = {
    'a broken link': ('<a href="gone.html">x</a>', 'broken link gone.html'), 'a broken part': ('<a href="#gone">x</a>', 'broken link #gone'),
    'a picture that is not there': ('<img src="gone.png">', 'broken link gone.png'), 'a script from elsewhere': ('<script src="https://cdn.example/x.js"></script>', 'loads https://cdn.example/x.js'),
    'a style from elsewhere': ('<link rel="stylesheet" href="//cdn.example/x.css">', 'loads //cdn.example/x.css')}

@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_is_found(fault, tmp_path):
    html, said = FAULTS[fault]
    text = '<html><head><title>A page</title></head><body><h1 id="a.b">A page</h1><a href="#a.b">up</a> {}</body></html>'
    (tmp_path/'a.html').write_text(text.format('<a href="https://elsewhere.example">fine</a>'))
    assert check(tmp_path, ['a.b']) == []
    (tmp_path/'a.html').write_text(text.format(html))
    assert check(tmp_path, ['a.b']) == [f'a.html: {said}']

def test_a_page_without_title_and_a_missing_entry_are_found(tmp_path):
    (tmp_path/'a.html').write_text('<html><head><title></title></head><body></body></html>')
    assert check(tmp_path, ['a.b']) == ['a.html: no title', 'a.b: no entry']

def test_a_table_says_what_the_source_says():
    d = describe('audioml.core', 'BadInput')
    assert d.rows[0] == ('what', 'str', '', 'what is wrong, with the offending value') and d.rows[2][2] == 'None'
    assert '| `want` | `str \\| None` | `None` | what would be right |' in table(d)
    assert describe('audioml.windowing', 'SlidingWindowConfig.frames').sig == '(frame_rate: float) -> int'  # without self
    assert '{py:method} SlidingWindowConfig.frames(' in myst(describe('audioml.windowing', 'SlidingWindowConfig.frames'))
    assert ('out', 'Path | None', 'None') == next(r[:3] for r in describe('audioml.cli', 'transcribe').rows if 'MIDI file, or a folder' in r[3])
    assert quarto(d, 'url#L1').startswith('---\n\n[source](url#L1)') and table(d) in quarto(d, 'url#L1')
    assert constants('audioml.core', 'x = 1\nAUDIO_SUFFIXES = (\n    1) # c\n_y = 2') == [(['AUDIO_SUFFIXES'], 'AUDIO_SUFFIXES = (\n    1) # c')]

def test_a_type_that_two_modules_define_is_named_in_full():
    d = describe('audioml.beatsaber.preference', 'prompt_at')
    assert 'windows: audioml.beatsaber.data.NoteWindows' in d.sig and ('windows', 'NoteWindows') == d.rows[0][:2]
    assert 'audioml' not in describe('audioml.windowing', 'n_windows').sig

def test_names_become_links_where_it_is_clear_which():
    assert resolve('n_windows', None) == ('audioml.windowing', 'n_windows')
    assert resolve('core', None) == ('audioml.core', '') and resolve('core', 'audioml.midi') is None and resolve('groove', None) is None
    assert resolve('PRESETS', None) is None and resolve('PRESETS', 'audioml.models.decoder') == ('audioml.models.decoder', 'PRESETS')
    assert resolve('audioml.core.BadInput', None) == ('audioml.core', 'BadInput') and resolve('no_such_name', 'audioml.core') is None
    assert link_names('see `BadInput`', 'audioml.windowing') == 'see {py:obj}`BadInput <audioml.core.BadInput>`'
    entry = '`````{py:class} A\nSee `BadInput`.\n`````\n\n`````{py:method} A.b\n```python\n`BadInput`\n```\n`BadInput`\n`````'
    assert link_names(entry, None).count('<audioml.core.BadInput>') == 2
    assert link_names('```sh\n`BadInput`\n```', None) == '```sh\n`BadInput`\n```'

def test_links_between_files_lead_to_pages(tmp_path):
    link = lambda text: link_files(text, 'nbs/index.ipynb', tmp_path)
    assert link('[a](14_windowing.ipynb#fixed-plans)') == '[a](/windowing.ipynb#fixed-plans)'
    assert link('[a](CONTRIBUTING.md)') == '[a](/contributing.md)' and link('[a](https://x.example/y.md)') == '[a](https://x.example/y.md)'
    assert link('[a](LICENSE)').endswith('/blob/main/LICENSE)')
    with pytest.raises(SystemExit, match='broken link gone.ipynb'): link('[a](gone.ipynb)')
