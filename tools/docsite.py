"""The documentation site, `make docs`: notebooks -> nbdev (`_proc/`) -> Quarto where it is installed, otherwise Sphinx -> `_docs/`.

nbdev runs definitions and `show_doc`; `Entries`, named under `procs` in settings.ini, is its last step and gives every exported name an
entry. Navigation (`SECTIONS`) is the same for both renderers. A site with a broken link or without an exported name is an error."""
import argparse, ast, atexit, gc, inspect, os, re, shutil, subprocess, sys, typing
from functools import cache, reduce
from html.parser import HTMLParser
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote
import nbformat, yaml
from fastcore.docments import docments
from nbdev.config import get_config
from nbdev.doclinks import _nbpath2html, patch_name
from nbdev.process import Processor
from nbdev.processors import _default_exp
from nbdev.showdoc import BasicMarkdownRenderer

root = Path(__file__).resolve().parent.parent
LIB = 'audioml'

# Sections of the site: folder of its landing page, title, what it is about, and which notebooks under nbs/ belong to it.
SECTIONS = [
    ('tutorials', 'Tutorials', 'Notebooks to read with the fingers on the keys: each runs in under a minute, on data that a program makes.', r'lab\.ipynb|tutorials/.*'),
    ('faces', 'Command line and web page', 'The two ways to use the models without writing Python.', '9[5-9].*'),
    ('drums', 'Drum transcription', 'Which drum is struck when, and how hard: from a recording to a MIDI file.', '7[0-4].*'),
    ('groove', 'Drum patterns', 'New patterns in a style, with loudness and timing as a drummer has them.', '7[5-9].*'),
    ('piano', 'Piano ratings', 'How a performance comes across, on the 19 scales on which listeners rate.', '8[0-4].*'),
    ('codec', 'Codec', 'The treble of a recording: a decoder that answers at 48 kHz to the codes of a codec at 24 kHz.', '8[5-9].*'),
    ('beatsaber', 'Beat Saber maps', 'From a song to a playable map: tempo, structure, notes, lights, and the checks of a map.', '9[0-4].*'),
    ('floors', 'Shared floors', 'What all systems stand on. A module imports from the floors below it, never from another system.', None),
    ('floors/ground', 'Ground', 'Errors, seeds, configs, files; the checkers that every notebook calls.', '0.*'),
    ('floors/sound', 'Sound and score', 'Clips and spectrograms, notes and MIDI, windows, stores and shards, augmentation.', '1.*'),
    ('floors/machinery', 'Machinery', 'Tokenizers, models, losses, metrics, training, and inference from windows to songs.', '[2-6].*'),
    ('runs', 'Runs', 'Training runs: notebooks with parameters. `audioml runs start NAME -p lr=1e-3` starts one, papermill does as well.', 'runs/.*')]

## What a module exports

def _targets(s):
    if not isinstance(s, (ast.Assign, ast.AnnAssign)): return []
    return [n.id for t in getattr(s, 'targets', None) or [s.target] for n in getattr(t, 'elts', [t]) if isinstance(n, ast.Name)]

@cache
def symbols(module):
    "What `module` defines: its text, `all` its exports, and `at`, name -> (kind, first line, last line, parsed statement)."
    text = (root/(module.replace('.', '/') + '.py')).read_text()
    at, names = {}, []
    def put(name, kind, s): at[name] = kind, min([s.lineno, *(d.lineno for d in getattr(s, 'decorator_list', []))]), s.end_lineno, s
    for s in ast.parse(text).body:
        if _targets(s) == ['__all__']: names = ast.literal_eval(s.value)
        for name in _targets(s): put(name, 'data', s)
        if isinstance(s, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for name in (n if isinstance(n := patch_name(s), (list, tuple)) else [n]): put(name, 'method' if '.' in name else 'function', s)
        if isinstance(s, ast.ClassDef):
            put(s.name, 'class', s)
            for d in s.body:
                if isinstance(d, ast.FunctionDef): put(f'{s.name}.{d.name}', 'method', d)
    return SimpleNamespace(text=text, all=names, at=at, uses=[resolve_name(m, module.rpartition('.')[0]) for m in re.findall(r'^from (\.+[\w.]+) import', text, re.M)])

@cache
def modules():
    "Every module of the package that exports something."
    paths = ('.'.join(p.relative_to(root).with_suffix('').parts) for p in sorted((root/LIB).rglob('*.py')) if p.name[0] != '_')
    return [m for m in paths if symbols(m).all]

@cache
def _homes():
    "Every public name of the package, alone and with its module in front -> the modules where it is."
    homes = {m: [m] for m in modules()}
    for m in modules():
        s = symbols(m)
        for n in s.at:
            if not n.split('.')[-1].startswith('_') and n.split('.')[0] in s.all: homes.setdefault(n, []).append(m); homes[f'{m}.{n}'] = [m]
    return homes

@cache
def resolve(
    name, # as in backticks
    page  # the module it is talked about in
):        # module and name of what is meant, None when it is no exported name or could be several
    "A name is looked up in its own module, in those that this one imports, then everywhere but in the command line; where no module is talked about, modules have short names."
    name = name.removesuffix('()')
    if page is None and f'{LIB}.{name}' in modules(): return f'{LIB}.{name}', ''
    found = [m for m in _homes().get(name, []) if m != f'{LIB}.cli' or page == m]
    near = next((m for m in (page, *symbols(page).uses) if m in found), None) if page else None
    if near is None and len(found) != 1: return None
    m = near or found[0]
    return m, name.removeprefix(m).lstrip('.')

## An entry

class _Raw(str):
    __repr__ = str.__str__

def _type(a):
    if a is inspect.Parameter.empty: return ''
    if a is None or a is type(None): return 'None'
    if isinstance(a, str): return a
    if typing.get_origin(a) is typing.Annotated: return _type(typing.get_args(a)[0])
    if not typing.get_args(a) and getattr(a, '__name__', None): return a.__name__
    return re.sub(r'\b(?:\w+\.)+(\w+)', r'\1', inspect.formatannotation(a))

def _default(v):
    text = getattr(v, '__name__', None) or repr(v)
    if len(text) < 50 and '<' not in text and '\n' not in text: return text
    return f'{type(v).__name__}(...)' if hasattr(v, '__dataclass_fields__') else '...'

def in_full(types, module):
    "Names of types that several modules define, with the module that `module` means: Sphinx could not tell."
    def full(m): return '.'.join(found) if len(_homes().get(m[0], ())) > 1 and (found := resolve(m[0], module)) else m[0]
    return re.sub(r'(?<![\w.])[A-Za-z_]\w*(?![\w.])', full, types)

def _help(p):
    "What the command line says of a parameter: its annotation carries the text."
    more = p.annotation.__metadata__ if typing.get_origin(p.annotation) is typing.Annotated else ()
    return next((a.help for a in more if isinstance(getattr(a, 'help', None), str)), '')

def plain(text):
    "Text of a docstring or comment as Markdown that shows just that; code stays code."
    parts = re.split(r'(`[^`]+`)', text)
    return ''.join(p if i % 2 else re.sub(r'([\\*<>\[\]$|_{}~#^`])', r'\\\1', p) for i, p in enumerate(parts))

def describe(module, name):
    "What an entry of an exported function, class or method says: its signature, docstring, and a row for each parameter."
    kind, line, _, tree = symbols(module).at[name]
    owner, _, attr = name.rpartition('.')
    scope = reduce(getattr, owner.split('.'), import_module(module)) if owner else import_module(module)
    static = inspect.getattr_static(scope, attr)
    if isinstance(static, property): kind, obj = 'property', static.fget
    else: obj = getattr(scope, attr)
    inner = inspect.unwrap(obj) if not isinstance(obj, type) else obj
    try: sig = inspect.signature(obj)
    except (TypeError, ValueError): sig = inspect.Signature()
    try: notes = docments(inner, full=True)
    except Exception as e: raise RuntimeError(f'{module}.{name}: {e}') from e
    first = kind in ('method', 'property') and not isinstance(static, (staticmethod, classmethod))
    params = [p for i, p in enumerate(sig.parameters.values()) if not (first and i == 0)]
    empty, stars = inspect.Parameter.empty, {inspect.Parameter.VAR_POSITIONAL: '*', inspect.Parameter.VAR_KEYWORD: '**'}
    note = lambda n: notes.get(n) or {}
    rows = [(stars.get(p.kind, '') + p.name, _type(p.annotation), '' if p.default is empty else _default(p.default), note(p.name).get('docment') or _help(p)) for p in params]
    ret = '' if kind == 'class' or sig.return_annotation in (empty, None) else _type(sig.return_annotation)
    raw = lambda t: _Raw(t) if t else empty
    shown = [p.replace(annotation=raw(in_full(t, module)), default=raw(d)) for p, (_, t, d, _) in zip(params, rows)]
    text = str(inspect.Signature(shown, return_annotation=raw(in_full(ret, module)) if ret else inspect.Signature.empty))
    try: ast.parse(f'def f{text}: pass')
    except SyntaxError: text = '(...)'
    doc = inspect.cleandoc(obj.__doc__ or '') if obj.__doc__ and not obj.__doc__.startswith(f'{attr}(') else ''
    kinds = [w for w, c in (('staticmethod', staticmethod), ('classmethod', classmethod)) if isinstance(static, c)]
    return SimpleNamespace(module=module, name=name, kind=kind, line=line, tree=tree, options=kinds, sig='' if kind == 'property' else text, ret=ret, doc=doc,
                           rows=rows, returns=(ret, (note('return').get('docment') or '')) if ret and kind != 'property' else None)

def table(d):
    "The parameters of `d` as a Markdown table; columns that say nothing are left out."
    rows = [(f'`{n}`', f'`{t}`' if t else '', f'`{v}`' if v else '', plain(' '.join(s.split()))) for n, t, v, s in d.rows]
    if d.returns and (d.returns[1] or rows): rows.append(('**Returns**', f'`{d.returns[0]}`', '', plain(' '.join(d.returns[1].split()))))
    keep = [0] + [j for j in (1, 2, 3) if any(r[j] for r in rows)]
    if len(keep) < 2: return ''
    code = lambda c: c.replace('|', '\\|') if c.startswith('`') else c
    line = lambda cells: '| ' + ' | '.join(cells) + ' |'
    head = ('Parameter', 'Type', 'Default', 'Details')
    return '\n'.join([line([head[j] for j in keep]), line(['---']*len(keep)), *(line([code(r[j]) for j in keep]) for r in rows)])

def myst(d):
    "The entry of `d` for Sphinx: a directive of its Python domain, which the search and the index know."
    sig = f'{d.name}{d.sig}'
    lines = [f':module: {d.module}', *(f':{o}:' for o in d.options)] + ([f':type: {d.ret}'] if d.kind == 'property' and d.ret else [])
    return '\n'.join([f'`````{{py:{d.kind}}} {sig}', *lines, '', plain(d.doc), '', table(d), '`````'])

def quarto(d, source):
    "The entry of `d` for Quarto."
    word = dict(function='def ', method='def ', property='').get(d.kind, 'class ')
    link = f'[source]({source}){{target="_blank" style="float:right; font-size:smaller"}}'
    return '\n\n'.join(p for p in ('---', link, f'### {d.name}', f'```python\n{word}{d.name}{d.sig}\n```', plain(d.doc), table(d)) if p)

def constants(module, source):
    "What an exporting cell `source` assigns to exported names: (names, their lines as written) for each statement."
    lines, found = source.splitlines(), []
    for s in ast.parse(source).body:
        names = [n for n in _targets(s) if n in symbols(module).all]
        text = lines[s.lineno-1:s.end_lineno]
        if names: found.append((names, '\n'.join(text[:12] + ['# ...']*(len(text) > 12))))
    return found

def named(module, names, text):
    "The entry of constants for Sphinx: a directive for each name that one statement binds, the last with its lines."
    entry = lambda name, body: f'`````{{py:data}} {name}\n:module: {module}\n:no-contents-entry:\n{body}`````'
    return '\n\n'.join(entry(n, f'\n```python\n{text}\n```\n' if n == names[-1] else '') for n in names)

class Named(BasicMarkdownRenderer):
    "For `show_doc`, whose own text cannot be had for a parameter with an array as its default; `Entries` puts an entry in its place."
    def _repr_markdown_(self): return self.nm
    __repr__ = __str__ = _repr_markdown_

class Entries(Processor):
    "nbdev's last step: the entry of each exported name, with the table of its parameters, and of constants, which `show_doc` does not know."
    def __init__(self, nb):
        super().__init__(nb)
        get_config()['renderer'] = 'docsite.Named'
        exp = _default_exp(nb)
        self.module = exp and f'{LIB}.{exp}'
        cells = nb.cells
        for i in reversed(range(len(cells))):
            c = cells[i]
            if c.cell_type != 'code': continue
            if not {'export', 'exports', 'exporti'} & c.directives_.keys() and _mixes(c.source): c.directives_['eval:'] = ['false']  # imports beside other code: nbdev would run both
            if self.module and 'export' in c.directives_ and 'hide' not in c.directives_ and (found := constants(self.module, c.source)): cells.insert(i+1, self._constants(found))
        for i, c in enumerate(cells): c.idx_ = i

    def _constants(self, found):
        from execnb.nbio import NbCell
        entry = [named(self.module, names, text) for names, text in found]
        line = symbols(self.module).at[found[0][0][0]][1]
        code = '\n'.join(text for _, text in found)
        cell = NbCell(0, dict(cell_type='markdown', source=f'```python\n{code}\n```', metadata=dict(entry='\n\n'.join(entry), line=line)))
        cell.directives_ = {}
        return cell

    def cell(self, cell):
        shown = re.search(r'^show_doc\(([\w.]+)', cell.source, re.M) if cell.cell_type == 'code' and self.module else None
        if not shown: return
        at = symbols(self.module).at
        if shown[1] not in at: return
        d = describe(self.module, shown[1])
        entries = [myst(d)]
        if d.kind == 'class':
            inside = [f'{d.name}.{m.name}' for m in d.tree.body if isinstance(m, ast.FunctionDef) and m.name[0] != '_' and ast.get_docstring(m)]
            entries += [myst(describe(self.module, n)) for n in inside if at[n][3] in d.tree.body]
        cell.metadata.update(entry='\n\n'.join(entries), line=d.line)
        cfg = get_config()
        url = f'{cfg.git_url}/blob/{cfg.branch}/{self.module.replace(".", "/")}.py#L{d.line}'
        cell['outputs'] = [dict(output_type='display_data', metadata={}, data={'text/markdown': quarto(d, url), 'text/plain': d.name})]

    def end(self):
        atexit.register(gc.freeze)  # the shell of each notebook collects garbage at exit: nothing to look through saves half the time
        cells, i = self.nb.cells, 0
        line = lambda c: c.get('metadata', {}).get('line')
        while i < len(cells):
            j = i
            while j < len(cells) and line(cells[j]): j += 1
            cells[i:j] = sorted(cells[i:j], key=line)
            i = max(j, i+1)

def _mixes(source):
    try: trees = ast.parse(source).body
    except SyntaxError: return False  # a magic
    imports = [isinstance(s, (ast.Import, ast.ImportFrom)) for s in trees]
    return any(isinstance(n, (ast.Import, ast.ImportFrom)) for s in trees for n in ast.walk(s)) and not all(imports)

## Pages

def outside_code(text, f):
    "`f` of each line of Markdown that is no code block; what stands in an entry is text."
    lines, fences = text.split('\n'), []
    for i, l in enumerate(lines):
        mark = re.match(r'\s*(`{3,}|~{3,})(\{py:)?', l)
        if fences and l.strip() == fences[-1][0]: fences.pop()
        elif fences and not fences[-1][1]: continue
        elif mark: fences.append((mark[1], bool(mark[2])))
        else: lines[i] = f(l)
    return '\n'.join(lines)

def link_names(text, module):
    "Names of the library in backticks become links to their entries; nbdev's links to the site on the web become links within this one."
    cfg = get_config()
    def link(m):
        if not (found := resolve(m[1], module)): return m[0]
        mod, name = found
        return f'{{py:obj}}`{m[1]} <{mod}{"." + name if name else ""}>`'
    def line(l):
        l = re.sub(rf'\[(`[^`]+`)\]\({re.escape(cfg.doc_host + cfg.doc_baseurl)}/[^)]*\)', r'\1', l)
        return re.sub(r'(?<![\[`}])`([A-Za-z_][\w.]*(?:\(\))?)`(?!`)', link, l)
    return outside_code(text, line)

def docname(path): return _nbpath2html(Path(path)).with_suffix('').as_posix()

def link_files(text, path, out):
    "Links of a page at `path` in the repository: to notebooks and pages within the site, to pictures (copied), to other files at their home."
    cfg, here = get_config(), (root/path).parent
    pages = {'CONTRIBUTING.md': '/contributing.md', 'CHANGELOG.md': '/changelog.md', 'README.md': '/index.ipynb'}
    def link(m):
        target, _, part = m[2].partition('#')
        if not target or re.match(r'[a-z]+:', target): return m[0]
        file = next((f for f in (here/target, root/target) if f.exists()), None)
        if file is None: raise SystemExit(f'{path}: broken link {m[2]}')
        rel = file.resolve().relative_to(root).as_posix()
        if rel in pages: new = pages[rel]
        elif rel.startswith('nbs/') and rel.endswith('.ipynb'): new = f'/{docname(rel[4:])}.ipynb' + (f'#{part}' if part else '')
        elif m[1].startswith('!'):
            (out/'files').mkdir(exist_ok=True); shutil.copy(file, out/'files'/file.name); new = f'/files/{file.name}'
        else: new = f'{cfg.git_url}/{"tree" if file.is_dir() else "blob"}/{cfg.branch}/{rel}'
        return f'{m[1]}({new})'
    return outside_code(text, lambda l: re.sub(r'(!?\[[^\]]*\])\(([^)\s]+)\)', link, l))

def notebooks():
    "Paths under nbs/ of the pages of the site, in order."
    found = [p.relative_to(root/'nbs') for p in sorted((root/'nbs').rglob('*.ipynb')) if not any(part[0] in '._' for part in p.relative_to(root/'nbs').parts)]
    return [p.as_posix() for p in found]

def front_matter(nb):
    "Title and description, as nbdev leaves them."
    raw = next((c.source for c in nb.cells if c.cell_type == 'raw'), '')
    return yaml.safe_load(raw.strip().strip('-')) or {} if raw.startswith('---') else {}

def write_page(nb, path, out):
    "Write the processed notebook of nbs/`path` as a page for Sphinx; returns its front matter."
    cfg, fm = get_config(), front_matter(nb)
    if not fm.get('title'): raise SystemExit(f'nbs/{path}: a page without a title')
    exp = next((m for m in modules() if f'/nbs/{path} #' in symbols(m).text), None)
    home = f'{cfg.git_url}/blob/{cfg.branch}/nbs/{path}'
    head = [f'# {fm["title"]}', '', '{.lead}', str(fm.get('description', ''))]
    use = f'`from {exp} import *` · ' if exp else f'`audioml runs start {Path(path).stem}` · ' if path.startswith('runs/') else ''
    head += ['', '{.home}', f'{use}[notebook]({home})'] if path != 'index.ipynb' else []
    cells = [nbformat.v4.new_markdown_cell('\n'.join(head) + (f'\n\n```{{py:module}} {exp}\n```' if exp else ''))]
    for c in nb.cells:
        if c.cell_type == 'raw' or c.source.startswith('<!-- WARNING'): continue
        entry = c.metadata.get('entry')
        if entry is not None or c.cell_type == 'markdown':
            cells.append(nbformat.v4.new_markdown_cell(link_files(link_names(entry or c.source, exp), f'nbs/{path}', out)))
            continue
        tags = ['remove-input'] if re.search(r'^#\|\s*echo:\s*false', c.source, re.M) else []
        source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M).strip()
        if source or c.outputs: cells.append(nbformat.v4.new_code_cell(source, outputs=c.outputs, metadata=dict(tags=tags)))
    new = nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=dict(name='python3', display_name='Python 3', language='python'), language_info=dict(name='python')))
    file = out/f'{docname(path)}.ipynb'
    file.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new, file)
    return dict(fm, module=exp)

def members(pattern, paths): return [p for p in paths if pattern and re.fullmatch(pattern, p) and p != 'index.ipynb' and not p.endswith('/index.ipynb')]

def navigation(paths):
    "Sections that have pages: (folder, title, blurb, its notebooks, folders of its sections), in order."
    rows = [(slug, title, blurb, members(pattern, paths)) for slug, title, blurb, pattern in SECTIONS]
    inside = lambda slug: [r[0] for r in rows if r[0].startswith(slug + '/') and r[3]]
    lost = [p for p in paths if not p.endswith('index.ipynb') and not any(p in r[3] for r in rows)]
    if lost: raise SystemExit(f'in no section of tools/docsite.py: {", ".join(lost)}')
    return [(*r, inside(r[0])) for r in rows if r[3] or inside(r[0])]

def sidebar(paths):
    "The navigation as Quarto reads it."
    nav = {r[0]: r for r in navigation(paths)}
    def section(slug):
        _, title, _, own, below = nav[slug]
        return dict(section=title, contents=own + [section(s) for s in below])
    top = [section(s) for s in nav if '/' not in s]
    return dict(website=dict(sidebar=dict(contents=[p for p in paths if p == 'index.ipynb'] + top)))

def write_sections(paths, about, out):
    "Landing pages of sections, with what their pages say of themselves, and the list of sections at the end of the front page."
    nav = navigation(paths)
    titles = {slug: (title, blurb) for slug, title, blurb, *_ in nav}
    item = lambda doc, title, text: f'{{doc}}`{title} </{doc}>`\n: {link_names(text, None)}\n'
    tree = lambda docs, depth=2: '\n'.join(['```{toctree}', ':hidden:', f':maxdepth: {depth}', *docs, '```'])
    for slug, title, blurb, own, below in nav:
        docs = [(docname(p), about[p]['title'], about[p].get('description', '')) for p in own] + [(f'{s}/index', *titles[s]) for s in below]
        (out/slug).mkdir(parents=True, exist_ok=True)
        text = [f'# {title}', '', '{.lead}', link_names(blurb, None), '', *(item(*d) for d in docs), tree([f'/{d[0]}' for d in docs])]
        (out/slug/'index.md').write_text('\n'.join(text))
    top = [(f'{slug}/index', *titles[slug]) for slug in titles if '/' not in slug]
    more = [('contributing', 'Contributing', 'How the library is worked on: set-up, where things go, how a notebook reads.'), ('changelog', 'Changes', 'What is new.')]
    for name, file in (('contributing', 'CONTRIBUTING.md'), ('changelog', 'CHANGELOG.md')):
        (out/f'{name}.md').write_text(link_files(link_names((root/file).read_text(), None), file, out))
    text = '\n'.join(['## On this site', '', *(item(*d) for d in top + more), tree([f'/{d[0]}' for d in top + more])])
    index = out/'index.ipynb'
    if not index.exists(): (out/'index.md').write_text(f'# {LIB}\n\n{text}'); return
    nb = nbformat.read(index, 4)
    nb.cells.append(nbformat.v4.new_markdown_cell(text))
    nbformat.write(nb, index)

## Sphinx

def _math(display):
    from latex2mathml.converter import convert
    from docutils.nodes import SkipNode
    def visit(self, node):
        self.body.append(convert(node.astext(), display=display))
        raise SkipNode
    return visit, None

def find_source(app, module):
    "What `[source]` leads to: the text of a module and the lines of its names."
    if not module.startswith(LIB): return None
    s = symbols(module)
    return s.text, {name: ('def', first, last) for name, (_, first, last, _) in s.at.items()}

def setup(app):
    "This file is an extension of Sphinx as well: formulas as MathML, which needs no script, and sources without importing anything."
    app.add_html_math_renderer('mathml', _math('inline'), _math('block'))
    app.connect('viewcode-find-source', find_source)
    return dict(parallel_read_safe=True, parallel_write_safe=True)

def run_sphinx(src, out, jobs=2):
    "Render the pages of `src` into `out`; a warning is an error."
    from sphinx.application import Sphinx
    cfg = get_config()
    fonts = dict([('font-stack--monospace', 'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace')])
    conf = dict(project=LIB, author=cfg.author, copyright=cfg.copyright, version=cfg.version, release=cfg.version, html_title=LIB, language='en',
        extensions=['myst_nb', 'sphinx.ext.viewcode', 'docsite'], nb_execution_mode='off', nb_merge_streams=True, nb_render_image_options=dict(alt='figure'),
        myst_enable_extensions=['dollarmath', 'attrs_inline', 'attrs_block', 'deflist'], myst_heading_anchors=3, smartquotes=False,
        suppress_warnings=['myst.header', 'misc.highlighting_failure'], nitpicky=False, viewcode_follow_imported_members=False,
        html_theme='furo', html_static_path=[str(root/'tools'/'static')], html_css_files=['site.css'], html_copy_source=False, html_show_sphinx=False,
        html_math_renderer='mathml', add_module_names=False, maximum_signature_line_length=72, python_use_unqualified_type_names=True,
        toc_object_entries_show_parents='hide', pygments_style='friendly', pygments_dark_style='github-dark', html_permalinks_icon='#',
        html_theme_options=dict(light_css_variables=fonts | {'color-brand-primary': '#a3380f', 'color-brand-content': '#a3380f'},
                                dark_css_variables={'color-brand-primary': '#ff9f6e', 'color-brand-content': '#ff9f6e'}))
    (src/'conf.py').write_text(f'globals().update({conf!r})\n')
    app = Sphinx(src, src, out, src.parent/f'{src.name}_doctrees', 'html', status=None, freshenv=True, parallel=jobs, warningiserror=True)
    app.build(force_all=True)
    if app.statuscode: raise SystemExit('the site has faults, see above')

def render(paths, cache, src, out, jobs=2):
    "The site in `out` of processed notebooks in `cache`, by way of pages in `src`."
    for d in (src, out): shutil.rmtree(d, ignore_errors=True); d.mkdir(parents=True)
    about = {p: write_page(nbformat.read(cache/p, 4), p, src) for p in paths}
    write_sections(paths, about, src)
    run_sphinx(src, out, jobs)

## Looking for faults

class Page(HTMLParser):
    "What of a page can be broken: its titles, ids, links, and what a browser loads for it."
    def __init__(self, text):
        super().__init__(); self.ids, self.links, self.loads, self.title, self.h1, self._in = set(), [], [], '', '', None
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if a.get('id'): self.ids.add(a['id'])
        if tag == 'a' and a.get('href'): self.links.append(a['href'])
        if tag in ('img', 'script', 'source', 'audio', 'video', 'iframe') and a.get('src'): self.loads.append(a['src'])
        if tag == 'link' and {'stylesheet', 'icon', 'preload'} & set((a.get('rel') or '').split()): self.loads.append(a['href'])
        if tag in ('title', 'h1'): self._in = tag
    def handle_endtag(self, tag):
        if tag == self._in: self._in = None
    def handle_data(self, data):
        if self._in: setattr(self, self._in, getattr(self, self._in) + data)

def check(
    site,      # folder of the finished site
    names=None # ids to be found: page -> ids; default: all exported names
) -> list:     # faults in words, none of a good site
    "Broken links and images, pages without a title, what would be loaded from elsewhere, exported names without an entry."
    site, faults = Path(site), []
    pages = {p.relative_to(site).as_posix(): Page(p.read_text()) for p in sorted(site.rglob('*.html'))}
    for name, page in pages.items():
        if not page.title.strip() or page.title.strip().startswith('<no title>') or not (page.h1.strip() or name == 'search.html'): faults.append(f'{name}: no title')
        for target in page.links + page.loads:
            if re.match(r'[a-z]+:|//', target):
                if target in page.loads and not target.startswith('data:'): faults.append(f'{name}: loads {target}')
                continue
            path, _, part = target.partition('#')
            file = os.path.normpath(os.path.join(os.path.dirname(name), unquote(path.split('?')[0]))) if path else name
            if not (site/file).exists(): faults.append(f'{name}: broken link {target}')
            elif part and file in pages and unquote(part) not in pages[file].ids: faults.append(f'{name}: broken link {target}')
    ids = set().union(*(p.ids for n, p in pages.items() if not n.startswith('_modules'))) if pages else set()
    wanted = [f'{m}.{n}' for m in modules() for n in symbols(m).all] if names is None else names
    return faults + [f'{n}: no entry' for n in wanted if n not in ids]

## make docs

def process(n_workers=2):
    "nbdev's step: the notebooks that changed, into _proc/. Returns that folder."
    from nbdev.serve import proc_nbs
    cache = root/'_proc'
    force = not cache.exists() or cache.stat().st_mtime < Path(__file__).stat().st_mtime
    return proc_nbs(n_workers=n_workers, force=force)

def main():
    ap = argparse.ArgumentParser(description='Build the documentation site into _docs/.')
    ap.add_argument('--renderer', choices=['quarto', 'sphinx'], default='quarto' if shutil.which('quarto') else 'sphinx')
    ap.add_argument('--jobs', type=int, default=min(4, os.cpu_count() or 1))
    args = ap.parse_args()
    os.chdir(root)
    paths, out = notebooks(), root/get_config().doc_path.name
    if args.renderer == 'quarto':
        (root/'nbs'/'sidebar.yml').write_text(yaml.safe_dump(sidebar(paths), sort_keys=False))
        (root/'README.md').touch()  # nbdev would write one of its own when it is older than its notebook
        env = dict(os.environ, PYTHONPATH=str(root/'tools'))
        sys.exit(subprocess.run(['nbdev_docs', '--n_workers', str(args.jobs)], env=env).returncode)
    cache = process(args.jobs)
    render(paths, cache, root/'build'/'docs', out, args.jobs)
    if faults := check(out): sys.exit('\n'.join([*faults[:50], f'{len(faults)} faults']))
    print(f'{out.name}/index.html: {len(paths)} notebooks, {sum(len(symbols(m).all) for m in modules())} names, no fault found')

if __name__ == '__main__': main()
