"""The compiled parts of the package, built for the tests where it has none."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import cast
from unittest import SkipTest

import dig_gossip

PACKAGE = Path(dig_gossip.__file__).parent
SKETCH = PACKAGE / "gossip" / "_sketch.c"
SEEN = PACKAGE / "gossip" / "_seen.c"
FRAMES = PACKAGE / "wire" / "_frames.c"

_SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g")
_BUILD = """
import sys
from setuptools import Extension, setup
name, source, folder, *flags = sys.argv[1:]
setup(
    script_args=["-q", "build_ext", "--build-lib", folder, "--build-temp", folder],
    ext_modules=[Extension(name, [source], extra_compile_args=flags, extra_link_args=flags)],
)
"""


def build(source: Path, folder: Path, *flags: str) -> Path:
    """Compile an extension, which is named like its source.

    :param flags: for the compiler and the linker.
    :returns: the module's file.
    :raises CalledProcessError: it does not compile.
    """
    subprocess.run(
        [sys.executable, "-c", _BUILD, source.stem, str(source), str(folder), *flags],
        check=True,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    (built,) = folder.glob(f"{source.stem}*.so")
    return built


def load(path: Path) -> ModuleType:
    """Import an extension from a file."""
    spec = importlib.util.spec_from_file_location(path.name.partition(".")[0], path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def compiled(source: Path) -> ModuleType:
    """An extension; built from the source at hand, so that it is never an old one.

    :raises SkipTest: there is no compiler.
    """
    with tempfile.TemporaryDirectory(prefix="dig-gossip-extension-") as folder:
        try:
            return load(build(source, Path(folder)))
        except subprocess.CalledProcessError as error:
            if "error:" in cast(str, error.stderr) and source.name in error.stderr:
                raise AssertionError(f"{source.name} does not compile:\n{error.stderr}") from None
            raise SkipTest("there is no C compiler") from None


def sanitized(source: Path, folder: Path, check: str, arguments: list[str]) -> int:
    """Build an extension with ASan and UBSan, and run a check with it.

    :param check: module that is run with ``--module``, the extension's file, and ``arguments``.
    :returns: its exit status.
    """
    path = build(source, folder, *_SANITIZERS)
    library = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
    ).stdout.strip()
    environment = {
        **os.environ,
        "CC": "gcc",
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself leaves much behind
        "PYTHONMALLOC": "malloc",
    }
    command = [sys.executable, "-m", check, "--module", str(path), *arguments]
    return subprocess.run(command, env=environment, check=False).returncode
