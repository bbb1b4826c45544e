import importlib.util
import pathlib
import py_compile

from rales.registry import ENCODERS, hash_file

a = pathlib.Path("mine")
a.mkdir(exist_ok=True)
b = pathlib.Path("stranger")
b.mkdir(exist_ok=True)
src = "def enc(settings):\n    return 'good'\n"
(a / "e.py").write_text(src)
print(ENCODERS.find(f"{a.resolve()}/e.py:enc")(0))
(b / "e.py").write_text(src)
evil = b / "evil.py"
evil.write_text("print('EVIL RAN')\ndef enc(settings):\n    return 'evil'\n")
cache = pathlib.Path(importlib.util.cache_from_source(str((b / "e.py").resolve())))
cache.parent.mkdir(exist_ok=True)
py_compile.compile(str(evil), cfile=str(cache), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
evil.unlink()
p = (b / "e.py").resolve()
print(ENCODERS.find_again(f"{p}:enc", {"file": str(p), "name": "enc", "sha256": hash_file(p)}, "run")(0))
