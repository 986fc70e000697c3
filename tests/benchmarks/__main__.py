"""Every benchmark, one after the other: `make bench`."""

import subprocess
import sys

for name in ("bench_core", "bench_blocked", "bench_gang", "bench_profiles", "bench_system", "bench_kubernetes"):
    print(f"== {name}", flush=True)
    done = subprocess.run([sys.executable, "-m", f"tests.benchmarks.{name}", *sys.argv[1:]], check=False)
    if done.returncode:
        sys.exit(done.returncode)
