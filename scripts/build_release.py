"""Wheel and source distribution in dist/, with SHA256SUMS; built twice, and an error unless both are the same bytes.

    python scripts/build_release.py            # or `make dist`

The time in the archives is SOURCE_DATE_EPOCH, or that of the last commit; nothing else of the machine goes in.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        once, again = (build_archives(REPOSITORY, Path(folder) / name) for name in ("once", "again"))
        if once != again:
            differ = [name for name in sorted({*once, *again}) if once.get(name) != again.get(name)]
            sys.exit(f"two builds differ in {', '.join(differ)}; expected the same bytes")
        out = REPOSITORY / "dist"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(Path(folder) / "once", out)
    sums = "".join(f"{digest}  {name}\n" for name, digest in once.items())
    (out / "SHA256SUMS").write_text(sums, encoding="utf-8")
    print(sums, end="")


def build_archives(source: Path, out: Path) -> dict[str, str]:
    """Checkout -> wheel and source distribution in `out`; their SHA-256 by name."""
    asked = os.environ.get("SOURCE_DATE_EPOCH")
    epoch = asked or subprocess.check_output(["git", "log", "-1", "--format=%ct"], cwd=source, text=True).strip()
    env = {**os.environ, "SOURCE_DATE_EPOCH": epoch}
    words = [sys.executable, "-m", "hatchling", "build", "--directory", str(out)]
    subprocess.run(words, cwd=source, env=env, check=True, stdout=subprocess.DEVNULL)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())}


if __name__ == "__main__":
    main()
