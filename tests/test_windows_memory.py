"Peak memory of joining windows does not grow with the length of the song, beyond its result."
import subprocess, sys
import pytest

CODE = '''
import resource, sys, torch
from audioml.inference.windows import aggregate
torch.set_num_threads(1)
n_frames, F, C, size = int(sys.argv[1]), 96, 5, 2000
read = lambda a, b: torch.full((b-a, F), .5)
predict = lambda x: dict(onset=x[..., :C], velocity=x[..., :C]) if sys.argv[3]=='dict' else x[..., :C]
aggregate(read, 2*size, predict, size, method=sys.argv[2])
out = aggregate(read, n_frames, predict, size, method=sys.argv[2])
result = sum(p.nbytes for p in out.values()) if isinstance(out, dict) else out.nbytes
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024 - result)/2**20)
'''

def peak_mib(minutes, method, kind='array'):
    "Peak resident memory besides the result, MiB, of a process that joins a song of `minutes`."
    n = minutes*60*100  # 100 frames a second
    return float(subprocess.run([sys.executable, '-c', CODE, str(n), method, kind], check=True, capture_output=True, text=True).stdout)

@pytest.mark.parametrize('method,kind', [('weighted', 'array'), ('confidence', 'dict')])
def test_memory_does_not_grow(method, kind):
    # 3 hours of features are 400 MB and of weights 20 MB: either of them would show
    assert peak_mib(180, method, kind) - peak_mib(3, method, kind) < 12
