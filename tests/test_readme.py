"""The README's example runs as it stands; its test command is the one that CI runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from wbcprof.cli import _parser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_example_runs_as_it_stands(tmp_path):
    (code,) = re.findall(r"<!-- tested.*?-->\n```python\n(.*?)```", README, flags=re.S)
    assert len(code.strip().splitlines()) <= 11
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cells.wbcprof").is_file() and "[" in done.stdout


def test_commands_are_those_that_there_are():
    lines = re.findall(r"^wbcprof .*", README, flags=re.M)
    commands = [shlex.split(line, comments=True)[1:] for line in lines]
    assert {command[0] for command in commands} >= {"fit", "profile", "classify", "adapt", "info"}
    for command in commands:
        assert _parser().parse_args(command).command == command[0]


def test_ci_runs_the_test_command_of_the_readme():
    (command,) = re.findall(r"## Tests\n\n```sh\n(.*?)\n```", README, flags=re.S)
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
