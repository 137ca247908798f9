"README.md is nbs/index.ipynb in Markdown: text, code, results, and its figures under images/. `--check` only compares."
import re, sys
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).resolve().parent.parent

def shown(cell):
    "`cell` as a reader sees it, by its nbdev directives: None when hidden, no source under `echo: false`."
    if cell.cell_type != 'code': return cell
    directives = re.findall(r'^#\|\s*(.+?)\s*$', cell.source, re.M)
    cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M)
    if 'hide' in directives or not cell.source.strip(): return None
    if 'echo: false' in directives: cell.metadata['transient'] = dict(remove_source=True)
    return cell

def render(nb_path=root/'nbs'/'index.ipynb'):
    "The files that `nb_path` renders to: relative path -> bytes."
    nb = nbformat.read(nb_path, as_version=4)
    nb.metadata['language_info'] = dict(name='python')  # a clean notebook does not say; code is then shown without colours
    nb.cells = [c for c in map(shown, nb.cells) if c is not None]
    text, resources = MarkdownExporter().from_notebook_node(nb, dict(output_files_dir='images', unique_key='index'))
    text = re.sub(r'\n{3,}', '\n\n', re.sub(r'[ \t]+$', '', text, flags=re.M)).strip()
    note = '<!-- Rendered from nbs/index.ipynb by `make readme`; do not edit. -->'
    return {'README.md': f'{text}\n\n{note}\n'.replace('![png]', '![figure]').encode(), **resources['outputs']}

def differing(files, folder=root):
    "Names of what under `folder` is not as in `files`: other content, missing, or a figure that is no longer used."
    old = [p.relative_to(folder).as_posix() for p in (folder/'images').glob('index_*')]
    now = {name: (folder/name).read_bytes() if (folder/name).exists() else None for name in (*files, *old)}
    return sorted(name for name in now if now[name] != files.get(name))

def write(files, folder=root):
    "Make `folder` as in `files`, touching only what differs."
    for name in differing(files, folder):
        path = folder/name
        if name not in files: path.unlink(); continue
        path.parent.mkdir(exist_ok=True); path.write_bytes(files[name])

if __name__ == '__main__':
    files = render()
    names = differing(files)
    if '--check' not in sys.argv: write(files)
    elif names: sys.exit(f'differ from nbs/index.ipynb: {", ".join(names)}; run `make readme`')
    print(f'README.md: {len(files) - 1} figures, {"changed: " + ", ".join(names) if names else "up to date"}')
