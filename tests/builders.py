"What tests of builders share: traces of what was made, processes that are killed while they build, files that are damaged."
import json, os, signal, subprocess, sys, time
from pathlib import Path

class Trace:
    "A file where `leave` writes the name of every item that is made, in any process; a process that was started with it in BUILD_TRACE finds it with `Trace()`."
    def __init__(self, path=None): self.path = Path(path or os.environ['BUILD_TRACE'])
    def names(self): return self.path.read_text().splitlines() if self.path.exists() else []

    def leave(self, name, seconds=.008):
        "Say that an item was made, which takes long enough for a process to be killed meanwhile."
        time.sleep(seconds)
        with open(self.path, 'a') as f: f.write(f'{name}\n')

    def take(self):
        "The names so far, which are then forgotten."
        names = self.names()
        self.path.unlink(missing_ok=True)
        return names

    def wait_for(self, n, alive=lambda: True, seconds=60):
        "Wait until `n` items were made: after so many the moment does not depend on how busy the machine is."
        until = time.monotonic() + seconds
        while len(self.names()) < n and alive():
            assert time.monotonic() < until, f'{len(self.names())} of {n} items after {seconds} s'
            time.sleep(.002)

def start_builder(script, path, n_workers):
    "Run a script of this folder, which says when it goes, in a process group of its own."
    p = subprocess.Popen([sys.executable, Path(__file__).parent/script, path, str(n_workers)], stdout=subprocess.PIPE, start_new_session=True)
    assert p.stdout.readline() == b'go\n'
    return p

def wait_for_group(group, seconds=30):
    "Nobody of a process group may be left a few seconds after its leader was killed."
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try: os.killpg(group, 0)
        except ProcessLookupError: return
        time.sleep(.02)
    os.killpg(group, signal.SIGKILL)
    raise AssertionError('workers outlive the process that started them')

def ids_in_shards(path):
    "Ids in the shards that are finished."
    return [i for f in sorted(Path(path).glob('shard-*.json')) for i in json.loads(f.read_text())['id']]

def damage(path, at, what):
    "Cut a file off, flip a byte, put in zeros, or put in junk, at a place given as a fraction."
    b = bytearray(path.read_bytes()); i = min(int(at*len(b)), len(b)-1)
    if what == 'cut': b = b[:i]
    elif what == 'flip': b[i] ^= 0x5a
    elif what == 'zeros': b[i:i+16] = bytes(len(b[i:i+16]))
    else: b[i:i] = b'junk'
    path.write_bytes(b)
