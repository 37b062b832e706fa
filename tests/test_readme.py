"""The README's example runs as it stands, and finds what the README says and what is exact."""

import re
import subprocess
import sys

import numpyro.distributions as dist
from notebooks import BOOK, ROOT

README = (ROOT / "README.md").read_text()


def test_example(capsys):
    code = re.search(r"```python\n(.+?)```", README, re.S)[1]
    lines = [line for line in code.split("\n\n", 1)[1].splitlines() if line.strip()]
    assert len(lines) == 10, "ten lines, imports aside"
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    counts, rate = names["data"].x, names["rate"]
    exact = dist.Gamma(2.0 + counts.sum(), 2.0 + counts.size)
    sd = exact.variance**0.5
    assert abs(rate.mean() - exact.mean) < 0.3 * sd
    assert 0.85 < rate.std() / sd < 1.2
    assert re.fullmatch(r"0\.\d\d ± 0\.\d\d", capsys.readouterr().out.strip()), "no finding"
    (mean, spread), (exact_mean, exact_sd) = (
        map(float, pair) for pair in re.findall(r"(\d\.\d+) ± (\d\.\d+)", README)
    )
    assert abs(rate.mean() - mean) < 0.03 and abs(rate.std() - spread) < 0.01
    assert (f"{exact.mean:.3f}", f"{sd:.3f}") == (f"{exact_mean:.3f}", f"{exact_sd:.3f}")


def test_example_with_a_simulator_outside_of_jax(tmp_path):
    code = re.search(r"```python\n(.+?)```", (BOOK / "how_to_use.md").read_text(), re.S)[1]
    (tmp_path / "mine.py").write_text(
        code.replace("executor=executor", "simulations=2_000, executor=executor")
    )
    command = [sys.executable, "mine.py"]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert re.fullmatch(r"COMPLETED 0\.\d+ 2000 0", done.stdout.strip())
    assert (tmp_path / "bank" / "x_4.npz").exists()


def test_one_screen():
    assert len(README.splitlines()) <= 75
