"Hostile bundles: each is refused with one clear line, and nothing it brought along is run."
import contextlib, hashlib, json, os, pickle, shutil, struct
import pytest, torch
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.torch import load_file, save_file
from audioml.core import BadInput, read_json, write_json
from audioml.inference.bundle import load_bundle, read_bundle, save_bundle

CONFIG = dict(n_in=3, names=['kick', 'snare'], threshold=.5)
def build(config): return torch.nn.Sequential(torch.nn.Linear(config['n_in'], 4), torch.nn.BatchNorm1d(4))

@pytest.fixture
def bundle(tmp_path): return save_bundle(tmp_path/'b', build(CONFIG), CONFIG, '# Toy', 'toy')

def refuses(path, says, build=build, **kw):
    "Loading raises `BadInput`, in one printable line that holds `says`."
    with pytest.raises(BadInput) as e: load_bundle(path, build, **kw)
    line = str(e.value)
    assert says in line and '\n' not in line and line.isprintable() and len(line) < 600, line

def seal(path, **changes):
    "Give config.json the checksum of the weights that are there, as someone who means harm would."
    head = read_json(path/'config.json')
    head['sha256'] = hashlib.sha256((path/'model.safetensors').read_bytes()).hexdigest()
    write_json(path/'config.json', {**head, **changes})

def rewrite(path, change, **kw):
    "Change the tensors, keep the metadata, and seal."
    file = path/'model.safetensors'; data = file.read_bytes()
    meta = json.loads(data[8:8+struct.unpack('<Q', data[:8])[0]])['__metadata__']
    state = load_file(file); change(state); save_file(state, file, metadata=meta); seal(path, n_tensors=len(state), **kw)

class Evil:
    "Makes a file when it is unpickled."
    def __init__(self, path): self.path = path
    def __reduce__(self): return open, (str(self.path), 'w')

# ---- truncated and swapped weights

def test_truncated_anywhere(bundle):
    file = bundle/'model.safetensors'; data = file.read_bytes()
    for n in (0, 1, 7, 8, 9, 100, len(data)//2, len(data)-1):
        file.write_bytes(data[:n]); refuses(bundle, 'model.safetensors')
        seal(bundle);               refuses(bundle, 'model.safetensors')
    file.write_bytes(data); seal(bundle); assert load_bundle(bundle, build)

def test_trailing_bytes(bundle):
    with open(bundle/'model.safetensors', 'ab') as f: f.write(b'more')
    refuses(bundle, 'checksum'); seal(bundle); refuses(bundle, 'not readable safetensors')

def test_huge_header_length(bundle):
    (bundle/'model.safetensors').write_bytes(struct.pack('<Q', 2**63)+b'{}'); seal(bundle)
    refuses(bundle, 'cut off')

def test_swapped_weights(bundle, tmp_path):
    other = save_bundle(tmp_path/'other', build(CONFIG), {**CONFIG, 'threshold': .9}, '# Toy', 'toy')
    shutil.copy(other/'model.safetensors', bundle); refuses(bundle, 'checksum')
    seal(bundle); refuses(bundle, 'not the one the weights were saved with')

def test_any_header_length(tmp_path):
    "A header of 128 or 640 bytes opens like a pickle does, and is none."
    firsts = set()
    for n in range(0, 400, 8):
        make = lambda c: torch.nn.ModuleDict({'x'*c['n']: torch.nn.Linear(1, 1)})
        path = save_bundle(tmp_path/'b', make(dict(n=n+1)), dict(n=n+1), '', 'toy')
        firsts.add((path/'model.safetensors').read_bytes()[0]); assert load_bundle(path, make)
    assert 0x80 in firsts

# ---- pickles

@pytest.mark.parametrize('name', ['model.pt', 'model.PKL', 'pytorch_model.bin', 'last.ckpt', 'x.pth', 'a.joblib'])
def test_pickle_beside(bundle, name):
    (bundle/name).write_bytes(pickle.dumps(1)); refuses(bundle, 'may run any code')

@pytest.mark.parametrize('protocol', [0, 2, 5])
def test_pickle_as_weights(bundle, tmp_path, protocol):
    (bundle/'model.safetensors').write_bytes(pickle.dumps(Evil(tmp_path/'owned'), protocol)); seal(bundle)
    refuses(bundle, 'model.safetensors'); assert not (tmp_path/'owned').exists()

def test_torch_save_as_weights(bundle, tmp_path):
    torch.save(Evil(tmp_path/'owned'), bundle/'model.safetensors'); seal(bundle)
    refuses(bundle, 'is a pickle'); assert not (tmp_path/'owned').exists()

def test_pickle_as_config(bundle, tmp_path):
    (bundle/'config.json').write_bytes(pickle.dumps(Evil(tmp_path/'owned')))
    refuses(bundle, 'config.json'); assert not (tmp_path/'owned').exists()

# ---- tensors

def test_missing_and_extra(bundle):
    rewrite(bundle, lambda s: s.pop('0.bias')); refuses(bundle, 'lacks tensors: 0.bias')
    rewrite(bundle, lambda s: s.update({'0.bias': torch.zeros(4), 'sneaky': torch.zeros(1)})); refuses(bundle, 'the model does not: sneaky')

@pytest.mark.parametrize('tensor,says', [
    (torch.zeros(5), 'has shape (5,); the model has (4,)'), (torch.zeros(0), 'has shape (0,)'), (torch.zeros(4, dtype=torch.int64), 'is torch.int64'),
    (torch.tensor([0., 1., float('nan'), 0.]), 'not finite'), (torch.full((4,), float('inf'), dtype=torch.float16), 'not finite'),
    (torch.zeros(4).to(torch.float8_e4m3fn), 'ordinary numbers'), (torch.zeros(4, dtype=torch.complex64), '')])
def test_wrong_tensor(bundle, tensor, says):
    rewrite(bundle, lambda s: s.update({'0.bias': tensor})); refuses(bundle, says)

def test_count_of_tensors(bundle): seal(bundle, n_tensors=3); refuses(bundle, 'holds 7 tensors; config.json says 3')

def test_terminal_codes_in_names(bundle):
    rewrite(bundle, lambda s: s.update({'\x1b[2J\x1b]0;owned\x07'+'x'*5000: torch.zeros(1)})); refuses(bundle, 'the model does not')

# ---- config

@pytest.mark.parametrize('changes,says', [
    (dict(format_version=2), 'update it'), (dict(format_version=0), 'reads 1'), (dict(format_version='1'), 'reads 1'), (dict(format_version=True), 'reads 1'),
    (dict(format_version=None), 'reads 1'), (dict(config=[1]), 'malformed config'), (dict(sha256=5), 'malformed sha256'), (dict(weights='../../x'), 'unknown'),
    (dict(n_tensors='7'), 'n_tensors'), (dict(config={**CONFIG, 'n_in': 4}), 'not the one'), (dict(config={}), 'not the one'), (dict(sha256='0'*64), 'checksum')])
def test_tampered_config(bundle, changes, says):
    write_json(bundle/'config.json', {**read_json(bundle/'config.json'), **changes}); refuses(bundle, says)

@pytest.mark.parametrize('text', ['', '[]', '{', 'null', '"x"', '['*100_000, '{"format_version": 1}', '\x00', '\ud800'.encode('utf8', 'surrogatepass'), '{"format_version": NaN}'])
def test_config_is_not_a_config(bundle, text):
    (bundle/'config.json').write_bytes(text if isinstance(text, bytes) else text.encode()); refuses(bundle, 'config.json')

def test_config_too_long(bundle): (bundle/'config.json').write_text(' '*2_000_000); refuses(bundle, 'bytes long')

@pytest.mark.parametrize('config', [dict(n_in='many'), dict(n_in=-1), dict(n_in=10**15), {}, dict(n_in=None)])
def test_config_builds_nothing(bundle, tmp_path, config):
    path = save_bundle(tmp_path/'c', build(CONFIG), config, '', 'toy'); refuses(path, 'no model can be built')

def test_wrong_system(bundle): refuses(bundle, "is a bundle for 'toy'", system='drums')

# ---- paths

def test_no_folder(tmp_path, bundle):
    refuses(tmp_path/'nothing', 'no such bundle'); refuses(bundle/'config.json', 'is a file')
    (tmp_path/'empty').mkdir(); refuses(tmp_path/'empty', 'config.json is missing')

@pytest.mark.parametrize('name', ['config.json', 'model.safetensors'])
def test_links_pipes_folders(bundle, tmp_path, name):
    shutil.copy(bundle/name, tmp_path/name); (bundle/name).unlink()
    refuses(bundle, f'{name} is missing')
    os.symlink(tmp_path/name, bundle/name);  refuses(bundle, 'not a plain file'); (bundle/name).unlink()
    os.symlink('/dev/zero', bundle/name);    refuses(bundle, 'not a plain file'); (bundle/name).unlink()
    os.mkfifo(bundle/name);                  refuses(bundle, 'not a plain file'); (bundle/name).unlink()
    (bundle/name).mkdir();                   refuses(bundle, 'not a plain file')

def test_saving_replaces_bundles_only(tmp_path, bundle):
    (tmp_path/'file').write_text('x')
    for path in (tmp_path, tmp_path/'file'):
        with pytest.raises(BadInput, match='will not be replaced'): save_bundle(path, build(CONFIG), CONFIG, '', 'toy')
    assert (tmp_path/'file').read_text()=='x' and load_bundle(bundle, build)

def test_killed_while_saving(tmp_path, bundle, monkeypatch):
    "A save that dies leaves the bundle that was there, and no litter."
    import audioml.inference.bundle as m
    before = read_bundle(bundle)[1]['0.weight']
    monkeypatch.setattr(m, 'write_text', lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with contextlib.suppress(KeyboardInterrupt): save_bundle(bundle, build(CONFIG), CONFIG, '', 'toy')
    assert torch.equal(read_bundle(bundle)[1]['0.weight'], before) and os.listdir(tmp_path)==['b']

# ---- anything at all

@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_damage_is_one_line(tmp_path_factory, data):
    "Bytes overwritten, cut out or put in anywhere, sealed or not: the bundle loads as it was or is refused."
    path = tmp_path_factory.mktemp('fuzz')/'b'; save_bundle(path, build(CONFIG), CONFIG, '', 'toy')
    good = read_bundle(path)
    file = path/data.draw(st.sampled_from(['config.json', 'model.safetensors'])); raw = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(raw)-1)); raw[at:at+data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9)); file.write_bytes(raw)
    sealed = file.name != 'config.json' and data.draw(st.booleans())
    if sealed: seal(path)
    try: head, state = read_bundle(path)
    except BadInput as e: assert '\n' not in str(e) and str(e).isprintable()
    else:
        assert head['config']==good[0]['config']
        assert sealed or all(torch.equal(state[k], good[1][k]) for k in good[1])
    with contextlib.suppress(BadInput): load_bundle(path, build)
    shutil.rmtree(path.parent)
