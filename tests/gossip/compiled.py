"""The compiled sketch arithmetic, built for the tests where the package has none."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import cast
from unittest import SkipTest

from dig_gossip.gossip import sketch_pure

SOURCE = Path(sketch_pure.__file__).with_name("_sketch.c")
_BUILD = """
import sys
from setuptools import Extension, setup
source, folder, *flags = sys.argv[1:]
setup(
    script_args=["-q", "build_ext", "--build-lib", folder, "--build-temp", folder],
    ext_modules=[Extension("_sketch", [source], extra_compile_args=flags, extra_link_args=flags)],
)
"""


def build(folder: Path, *flags: str) -> Path:
    """Compile the extension.

    :param flags: for the compiler and the linker.
    :returns: the module's file.
    :raises CalledProcessError: it does not compile.
    """
    subprocess.run(
        [sys.executable, "-c", _BUILD, str(SOURCE), str(folder), *flags],
        check=True,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    (built,) = folder.glob("_sketch*.so")
    return built


def load(path: Path) -> ModuleType:
    """Import the extension from a file."""
    spec = importlib.util.spec_from_file_location("_sketch", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def compiled() -> ModuleType:
    """The extension; built from the source at hand, so that it is never an old one.

    :raises SkipTest: there is no compiler.
    """
    with tempfile.TemporaryDirectory(prefix="dig-gossip-sketch-") as folder:
        try:
            return load(build(Path(folder)))
        except subprocess.CalledProcessError as error:
            if "error:" in cast(str, error.stderr) and SOURCE.name in error.stderr:
                raise AssertionError(f"{SOURCE.name} does not compile:\n{error.stderr}") from None
            raise SkipTest("there is no C compiler") from None
