"""What is installed is what is here: the layout, the declared dependencies, and a wheel in a clean environment."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shutil
import site
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
FOLDERS = ("embedder", "index", "kernels", "rag", "service")
MODEL = "decant/embedder/models/decant-mini"
MODEL_BYTES = 45_000_000


def folders_with_code() -> list[str]:
    """Dotted names of all folders that hold Python files."""
    found = {file.parent.relative_to(ROOT).parts for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")}
    return sorted(".".join(("decant", *parts)) for parts in found | {(folder,) for folder in FOLDERS})


def sources() -> list[Path]:
    return [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]


def test_every_folder_is_a_declared_package():
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == folders_with_code()
    assert PROJECT["tool"]["setuptools"]["package-dir"] == {f"decant.{folder}": folder for folder in FOLDERS}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_is_typed(folder):
    assert (ROOT / folder / "py.typed").is_file()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"][f"decant.{folder}"]


def test_our_kernels_never_hide_hugging_faces(monkeypatch):
    assert not (ROOT / "kernels" / "__init__.py").exists()
    monkeypatch.syspath_prepend(str(ROOT))
    importlib.invalidate_caches()
    spec = importlib.util.find_spec("kernels")
    assert spec is None or spec.origin is None or not Path(spec.origin).is_relative_to(ROOT)
    importlib.import_module("transformers.integrations.hub_kernels")


def test_tests_are_no_package():
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_every_import_is_a_declared_dependency():
    """At a module's top only what is always installed; within a function also what an extra brings."""
    declared = {_name(line) for line in PROJECT["project"]["dependencies"]}
    extras = {name: {_name(line) for line in lines} for name, lines in EXTRAS.items()}
    optional = set[str]().union(*(names for name, names in extras.items() if name not in ("bench", "dev")))
    providers = packages_distributions()
    missing: dict[str, str] = {}
    for file in sources():
        allowed = declared | (extras["train"] if "training" in file.parts else set())
        allowed |= extras["dev"] if file.name == "generate.py" else set()
        # Kernels are imported where Triton is found, and only there.
        allowed |= {"triton"} if file.name.endswith("_kernel.py") else set()
        tree = ast.parse(file.read_text("utf-8"))
        at_top = _third_party(tree.body)
        for top in _third_party(ast.walk(tree)):
            found = {_name(dist) for dist in providers.get(top, [top])}
            if not found & (allowed if top in at_top else allowed | optional):
                missing[top] = str(file.relative_to(ROOT))
    assert missing == {}


def _third_party(nodes: Iterable[ast.AST]) -> set[str]:
    names = set[str]()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").split(".")[0])
    return names - sys.stdlib_module_names


def _name(requirement: str) -> str:
    """Return the normalised distribution name at the beginning of a requirement."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match.group()).lower()


def test_every_dependency_is_pinned():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {_name(name) for name in pins}
    wanted = {_name(line) for group in (PROJECT["project"]["dependencies"], *EXTRAS.values()) for line in group}
    assert wanted - pinned == set()
    assert pins["torch"] == "2.13.0"


@pytest.mark.parametrize("folder", ["embedder", "index", "rag", "service"])
def test_the_public_surface_is_a_sorted_list_of_what_exists(folder):
    module = importlib.import_module(f"decant.{folder}")
    names = list(getattr(module, "__all__", []))
    assert names == sorted(names)
    own = {name for name, value in vars(module).items() if getattr(value, "__module__", "").startswith("decant.")}
    assert {name for name in own if not name.startswith("_")} <= set(names)
    assert all(hasattr(module, name) for name in names)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as a release is: a source archive first, the wheel from that."""
    tree = tmp_path_factory.mktemp("tree")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tree / file)
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, tree)
    (found,) = out.glob("*.whl")
    assert [file.name for file in out.iterdir() if file != found] == [f"decant-{PROJECT['project']['version']}.tar.gz"]
    return found


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with only the wheel in it, which borrows this one's libraries and not its editable install."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    _run(
        sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--no-compile",
        "--disable-pip-version-check", wheel,
    )  # fmt: skip
    (own,) = (folder / "lib").glob("python*/site-packages")
    (own / "borrowed.pth").write_text("\n".join(site.getsitepackages()) + "\n", "utf-8")
    return python


def test_the_wheel_holds_every_module_the_model_and_the_page(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"decant/{file.relative_to(ROOT).as_posix()}" for file in sources()}
    expected |= {f"decant/{folder}/py.typed" for folder in FOLDERS}
    model = ROOT / "embedder" / "models" / "decant-mini"
    files = [file for file in model.rglob("*") if file.is_file()]
    expected |= {f"{MODEL}/{file.relative_to(model).as_posix()}" for file in files}
    expected |= {f"decant/service/web/{file.name}" for file in (ROOT / "service" / "web").glob("*.*")}
    assert f"{MODEL}/model.safetensors" in names
    assert expected - names == set()
    assert {name.split("/")[0] for name in names} == {"decant", f"decant-{PROJECT['project']['version']}.dist-info"}
    assert sum(file.stat().st_size for file in files) <= MODEL_BYTES


def test_every_module_of_the_wheel_imports_in_a_clean_environment(wheel, clean_python, tmp_path):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")]
    modules = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in names]
    programs = [name for name in modules if name.endswith("__main__")]
    code = (
        "import importlib, sys\n"
        f"for name in {sorted(set(modules) - set(programs))!r}: importlib.import_module(name)\n"
        "import decant.embedder; print(decant.embedder.__file__)"
    )
    out = _run(clean_python, "-W", "error::ImportWarning", "-c", code, cwd=tmp_path)
    assert Path(out.strip().splitlines()[-1]).is_relative_to(clean_python.parents[1])


def test_the_installed_command_embeds_with_the_model_it_brought(clean_python, tmp_path):
    out = _run(clean_python.with_name("decant"), "embed", stdin="hello\n", cwd=tmp_path)
    assert out.startswith('{"id": "1", "tokens":')


def _run(*command: str | Path, stdin: str = "", cwd: Path | None = None) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, input=stdin, cwd=cwd)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout
