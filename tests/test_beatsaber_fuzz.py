"Mutated files through the readers, in a process whose memory is bounded; FUZZ_CASES=100000 makes it a long run."
import json, os, subprocess, sys
from pathlib import Path

CASES = int(os.environ.get('FUZZ_CASES', 2000))

def test_only_bad_input_comes_out():
    run = subprocess.run([sys.executable, str(Path(__file__).with_name('beatsaber_fuzz.py')), str(CASES)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    said = json.loads(run.stdout)
    assert not said['faults'], '\n'.join(f'case {i}: {what}' for i, what in said['faults'])
    assert said['slowest'][0] < 60 and CASES/10 < said['good'] < .9*CASES
