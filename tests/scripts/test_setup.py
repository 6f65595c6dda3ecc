"""scripts/: set-up, the wrappers around it, and the lock. No network, and no environment but tiny ones."""

import importlib.util
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("lock", "reproduce", "setup", "setup.py", "stage", "test", "venv_path.py")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the real scripts and nothing else, in a folder with a space in its name."""
    root = tmp_path / "my projects" / "frost line"
    (root / "scripts").mkdir(parents=True)
    for name in SCRIPTS:
        shutil.copy(ROOT / "scripts" / name, root / "scripts")
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "requirements.lock").write_text("uv==1.0 \\\n    --hash=sha256:aa\nxyz==2\n    # via uv\n")
    return root


def write_command(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def run(*command: str | Path, cwd: Path | str = "/", **variables: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": "/usr/bin:/bin"} | variables
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)


class TestStage:
    """scripts/stage: which Python, which code."""

    TELL = 'echo "$0|$PYTHONPATH|$(pwd)"; for word in "$@"; do echo "$word"; done; exit 7'

    def test_runs_frostline_with_the_projects_python_and_code(self, project):
        write_command(project / ".venv/bin/python", self.TELL)
        done = run(project / "scripts/stage", "finetune", "name=a b", cwd=project)
        assert done.stdout.splitlines() == [
            f"{project}/.venv/bin/python|{project}/src|{project}",
            *["-m", "frostline", "finetune", "name=a b"],
        ]
        assert done.returncode == 7

    def test_an_experiments_workspace_runs_its_own_code_with_the_projects_python(self, project):
        workspace = project / ".dvc/tmp/exps/standalone/tmp1"
        shutil.copytree(project / "scripts", workspace / "scripts")
        write_command(project / ".venv/bin/python", self.TELL)
        done = run("scripts/stage", "evaluate", cwd=workspace, PYTHONPATH="/mine")
        assert done.stdout.splitlines()[0] == f"{project}/.venv/bin/python|{workspace}/src:/mine|{workspace}"

    def test_frostline_python_wins(self, project, tmp_path):
        write_command(project / ".venv/bin/python", self.TELL)
        write_command(tmp_path / "other python", self.TELL)
        done = run(project / "scripts/stage", "x", FROSTLINE_PYTHON=str(tmp_path / "other python"))
        assert done.stdout.startswith(f"{tmp_path}/other python|")

    def test_without_an_environment_python3_on_path(self, project, tmp_path):
        write_command(project.parent / ".venv/bin/python", "echo somebody else's")
        write_command(tmp_path / "bin/python3", self.TELL)
        done = run(project / "scripts/stage", "x", PATH=f"{tmp_path}/bin:/usr/bin:/bin")
        assert done.stdout.startswith(f"{tmp_path}/bin/python3|")


class TestLayers:
    """scripts/setup.py: what is made when, and what the stamp remembers."""

    @pytest.fixture
    def setup(self, project, monkeypatch) -> ModuleType:
        """setup.py of `project`, which notes in `setup.made` what it would install."""
        return self.load(project, monkeypatch)

    @staticmethod
    def load(project: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
        spec = importlib.util.spec_from_file_location("setup_under_test", project / "scripts/setup.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.made = []
        for step in ("uv", "packages", "project"):
            monkeypatch.setattr(module, f"install_{step}", lambda step=step: module.made.append(step))
        return module

    @staticmethod
    def made(setup: ModuleType) -> list[str]:
        setup.made.clear()
        setup.main()
        return list(setup.made)

    def test_makes_all_once(self, setup):
        assert self.made(setup) == ["uv", "packages", "project"]
        assert setup.PYTHON.exists()
        assert self.made(setup) == []

    def test_makes_again_what_has_changed(self, setup, project):
        self.made(setup)
        with (project / "pyproject.toml").open("a") as file:
            file.write("# new\n")
        assert self.made(setup) == ["project"]
        with (project / "requirements.lock").open("a") as file:
            file.write("# new\n")
        assert self.made(setup) == ["packages", "project"]

    def test_remakes_a_moved_environment(self, setup, project, monkeypatch):
        self.made(setup)
        moved = project.rename(project.with_name("else where"))
        setup = self.load(moved, monkeypatch)
        assert self.made(setup) == ["uv", "packages", "project"]
        assert self.made(setup) == []

    def test_remakes_when_its_python_is_gone(self, setup):
        self.made(setup)
        setup.PYTHON.unlink()
        assert self.made(setup) == ["uv", "packages", "project"]

    @pytest.mark.parametrize("step", ["uv", "packages", "project"])
    def test_remakes_what_was_interrupted(self, setup, monkeypatch, step):
        with monkeypatch.context() as patch:
            patch.setattr(setup, f"install_{step}", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                setup.main()
        (setup.VENV / "half made").touch()
        assert self.made(setup) == ["uv", "packages", "project"]
        assert not (setup.VENV / "half made").exists()

    def test_a_stamp_cut_short_is_no_stamp(self, setup):
        self.made(setup)
        setup.STAMP.write_text(setup.STAMP.read_text()[:7])
        assert self.made(setup) == ["uv", "packages", "project"]

    def test_keeps_the_environment_when_nothing_could_be_fetched(self, setup, project, monkeypatch):
        self.made(setup)
        (project / "requirements.lock").write_text("uv==2.0\n")
        with monkeypatch.context() as patch:
            patch.setattr(setup, "install_packages", lambda: (_ for _ in ()).throw(setup.NotFetchedError))
            with pytest.raises(setup.NotFetchedError):
                setup.main()
        assert self.made(setup) == ["packages", "project"]

    def test_leaves_an_environment_that_is_not_its_own(self, setup):
        (setup.VENV / "bin").mkdir(parents=True)
        with pytest.raises(setup.SetupError, match=r"was not made by this: move it away or delete it"):
            setup.main()
        assert [path.name for path in setup.VENV.iterdir()] == ["bin"]

    def test_fills_an_environment_that_is_a_link_to_another_disk(self, setup, tmp_path):
        (tmp_path / "big disk").mkdir()
        setup.VENV.symlink_to(tmp_path / "big disk")
        assert self.made(setup) == ["uv", "packages", "project"]
        assert setup.VENV.is_symlink()

    def test_two_at_once_make_it_once(self, setup, monkeypatch):
        waits = threading.Event()
        monkeypatch.setattr(setup, "say", lambda message: "waiting" in message and waits.set())
        second = threading.Thread(target=setup.main)
        with setup.one_at_a_time():
            second.start()
            assert waits.wait(timeout=30)
            assert setup.made == []
            setup.make_environment()
            setup.write_stamp(setup.made_from())
        second.join(timeout=30)
        assert setup.made == ["uv"]

    def test_takes_from_the_lock_what_uv_is(self, setup):
        assert setup.lock_entry("uv") == "uv==1.0 \\\n    --hash=sha256:aa\n"
        with pytest.raises(setup.SetupError, match=r"has no nonesuch in it: restore it"):
            setup.lock_entry("nonesuch")

    @pytest.mark.parametrize(
        ("output", "sentence"),
        [
            ("error: No space left on device (os error 28)", "the disk is full: .* make room"),
            ("cause: dns error", "could not be fetched: check the network"),
            ("cause: tunnel error: failed to create", "check the network and .*https_proxy.*, then run this"),
            ("error: Failed to fetch: `x`\n  cause: operation timed out", "could not be fetched"),
            ("one\nerror: Hash mismatch for `x`\n", "`uv pip install` failed, saying 'error: Hash mismatch"),
        ],
    )
    def test_a_failure_is_one_sentence(self, setup, monkeypatch, output, sentence):
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
        error = setup.failure(("/x/.venv/bin/uv", "pip", "install", "--python"), output)
        assert re.search(sentence, str(error))
        assert "\n" not in str(error)

    def test_a_step_that_fails_says_so_and_its_output_is_kept(self, setup, tmp_path):
        setup.VENV.mkdir()
        write_command(tmp_path / "uv", "echo Prepared 3 packages; echo network is unreachable >&2; exit 2")
        with pytest.raises(setup.NotFetchedError, match=r"check the network.*frostline-setup\.log"):
            setup.run(str(tmp_path / "uv"))
        assert setup.LOG.read_text() == "Prepared 3 packages\nnetwork is unreachable\n"

    def test_keeps_how_to_reach_packages_and_nothing_else_of_pips_and_uvs_settings(self, setup, monkeypatch):
        kept = {
            "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
            "UV_CACHE_DIR": "/tmp/cache",
            "UV_HTTP_TIMEOUT": "7",
            "SSL_CERT_FILE": "/tmp/cert",
            "HTTPS_PROXY": "http://127.0.0.1:9",
        }
        led_astray = [
            *["PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "CONDA_PREFIX"],
            *["PIP_TARGET", "PIP_REQUIRE_VIRTUALENV", "PIP_CONSTRAINT"],
            *["UV_SYSTEM_PYTHON", "UV_PYTHON", "UV_EXCLUDE_NEWER", "UV_PROJECT_ENVIRONMENT"],
        ]
        for name, value in (kept | dict.fromkeys(led_astray, "x")).items():
            monkeypatch.setenv(name, value)
        environment = setup.environment()
        assert kept.items() <= environment.items()
        assert not environment.keys() & set(led_astray)

    def test_uv_looks_where_pip_was_told_to(self, setup, monkeypatch):
        monkeypatch.setattr(setup, "find_pip", lambda: ["true"])
        for name in os.environ:
            if re.match(r"(PIP|UV)_\w*INDEX", name):
                monkeypatch.delenv(name)
        assert setup.pips_index() == {}
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/pip")
        assert setup.pips_index() == {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/pip"}
        monkeypatch.setenv("UV_INDEX_URL", "http://127.0.0.1:9/uv")
        assert setup.pips_index() == {}


class TestWrappers:
    """scripts/setup, test, reproduce: from any folder, in anyone's shell."""

    def test_no_python_that_fits_names_what_was_tried(self, project, tmp_path):
        for name in ("bash", "dirname", "env"):
            path = shutil.which(name)
            assert path
            (tmp_path / name).symlink_to(path)
        write_command(tmp_path / "python3", 'case "$*" in *print*) echo is 3.9;; *) exit 1;; esac')
        done = run(project / "scripts/setup", PATH=str(tmp_path))
        assert done.returncode == 1
        assert "(python3.11 does not run, python3.12 does not run," in done.stderr
        assert "python3 is 3.9, python does not run): install one" in done.stderr
        assert done.stderr.count("\n") == 1

    def test_takes_the_environments_own_python_first(self, project):
        write_command(project / ".venv/bin/python", 'case "$*" in *-c*) exit 0;; *) echo "$@";; esac')
        done = run(project / "scripts/setup", PYTHONPATH="/nonexistent")
        assert done.stdout == f"-I -S -X utf8 {project}/scripts/setup.py\n"

    def test_tests_run_in_the_project_with_a_clean_environment(self, project):
        write_command(project / "scripts/setup", "echo set up")
        write_command(project / ".venv/bin/python", 'pwd; echo "$@"; env')
        done = run(
            project / "scripts/test",
            *["-k", "a b"],
            MLFLOW_TRACKING_URI="http://127.0.0.1:9",
            FROSTLINE_PYTHON="/x",
            GIT_DIR="/x",
            PYTHONPATH="/x",
            CDPATH="/",
        )
        assert done.stdout.splitlines()[:3] == ["set up", str(project), "-m pytest -n 3 -m not slow -k a b"]
        assert "OMP_NUM_THREADS=1" in done.stdout
        assert not re.search("^(MLFLOW|FROSTLINE|GIT_|PYTHONPATH)", done.stdout, re.M)

    def test_all_tests_run_where_that_is_asked_for(self, project):
        write_command(project / "scripts/setup", "true")
        write_command(project / ".venv/bin/python", 'echo "$@"')
        assert run(project / "scripts/test", "--all", "-x").stdout == "-m pytest -n 3 -x\n"

    def test_reproduce_ends_with_the_table_and_where_to_look(self, project):
        subprocess.run(["git", "init", "-q", project], check=True)
        write_command(project / "scripts/setup", "echo set up")
        write_command(project / ".venv/bin/dvc", 'echo "dvc $@"')
        report = project / "artifacts/report/report.md"
        report.parent.mkdir(parents=True)
        report.write_text("# Title\n\ntext\n\n| arm | gain |\n|---|---|\n| full | 3 |\n\nmore\n\n| other |\n")
        done = run(project / "scripts/reproduce", "--force")
        assert done.stdout.splitlines() == [
            *["set up", "dvc repro --force", ""],
            *["| arm | gain |", "|---|---|", "| full | 3 |", ""],
            f"The report:  {project}/artifacts/report/index.html",
            "All runs:    .venv/bin/frostline ui",
        ]

    def test_reproduce_needs_git(self, project):
        write_command(project / "scripts/setup", "true")
        done = run(project / "scripts/reproduce", GIT_CEILING_DIRECTORIES=str(project.parent))
        assert done.returncode == 1
        assert f"run `git init` in {project}" in done.stderr

    def test_a_failed_stage_fails_reproduce(self, project):
        subprocess.run(["git", "init", "-q", project], check=True)
        write_command(project / "scripts/setup", "true")
        write_command(project / ".venv/bin/dvc", "exit 255")
        done = run(project / "scripts/reproduce")
        assert done.returncode == 255
        assert done.stdout == ""


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("with space ") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", path], check=True)
    (site_packages,) = path.glob("lib/*/site-packages")
    shutil.copy(ROOT / "scripts/venv_path.py", site_packages / "_frostline_path.py")
    (site_packages / "_frostline_path.pth").write_text("import _frostline_path\n")
    return path


class TestPath:
    """scripts/venv_path.py: the environment's commands are found without activating it."""

    SHOW = "import os; print(os.environ['PATH'])"

    @pytest.mark.parametrize("path", ["/usr/bin:/bin", "{bin}:/usr/bin:/bin", "/usr/bin:{bin}:/bin"])
    def test_its_commands_come_first(self, venv, path):
        done = run(venv / "bin/python", "-c", self.SHOW, PATH=path.format(bin=venv / "bin"))
        assert done.stdout.strip() == f"{venv}/bin:/usr/bin:/bin"

    def test_leaves_other_interpreters_alone(self, venv):
        (site_packages,) = venv.glob("lib/*/site-packages")
        lead_there = f"import site; site.addsitedir({str(site_packages)!r}); import _frostline_path; "
        done = run(sys.executable, "-I", "-S", "-c", lead_there + self.SHOW)
        assert done.stdout.strip() == "/usr/bin:/bin"


LOCK = (ROOT / "requirements.lock").read_text()
ENTRIES = dict(re.findall(r"^([\w.-]+)==(.*(?:(?<=\\)\n.*)*)", LOCK, re.M))


def read_requirements(path: Path) -> dict[str, Requirement]:
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    requirements = [Requirement(line) for line in lines if line]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


WANTED = read_requirements(ROOT / "requirements.in")


class TestLock:
    """requirements.in → requirements.lock, and what pyproject.toml asks of them."""

    def test_names_no_place(self):
        assert "://" not in LOCK
        assert not re.search(r"index-url|find-links|^-|\.whl|@ |(^|\s)/", LOCK, re.M)

    def test_every_package_has_an_exact_version_and_hashes(self):
        assert len(ENTRIES) > 100
        for name, entry in ENTRIES.items():
            assert re.match(r"[\w.+!]+( |$)", entry), name
            assert "--hash=sha256:" in entry, name

    def test_leaves_windows_out(self):
        assert "win32" not in LOCK

    def test_has_all_that_is_asked_for(self):
        for name, requirement in WANTED.items():
            assert ENTRIES[name].split()[0] in requirement.specifier, name

    def test_pyproject_asks_for_nothing_else(self):
        pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
        for text in pyproject["project"]["dependencies"] + pyproject["build-system"]["requires"]:
            requirement = Requirement(text)
            name = canonicalize_name(requirement.name)
            assert name in WANTED, f"{name} is not in requirements.in"
            assert ENTRIES[name].split()[0] in requirement.specifier, name
            assert any(bound.operator == ">=" for bound in requirement.specifier), (
                f"{name} has no lower bound"
            )

    def test_lock_compiles_without_the_callers_settings(self, project):
        write_command(project / ".venv/bin/uv", 'echo "$@" > called; env >> called')
        write_command(project / ".venv/bin/python", f'exec "{sys.executable}" "$@"')
        done = run(project / "scripts/lock", "--upgrade", UV_INDEX_URL="http://127.0.0.1:9", UV_OFFLINE="1")
        assert done.returncode == 0
        called = (project / "called").read_text()
        assert called.startswith("pip compile --quiet --universal --python-version 3.11 ")
        assert "--upgrade requirements.in\n" in called
        known_to_the_system = bool(ssl.create_default_context().get_ca_certs())
        assert re.findall(r"UV_\w+=.*", called) == ["UV_SYSTEM_CERTS=true"] * known_to_the_system


def test_every_script_parses():
    for name in ("lock", "reproduce", "setup", "test"):
        subprocess.run(["bash", "-n", ROOT / "scripts" / name], check=True)
    subprocess.run(["sh", "-n", ROOT / "scripts/stage"], check=True)
    subprocess.run(["bash", "-n", ROOT / ".ci/run"], check=True)


def test_scripts_can_be_executed():
    for path in (*(ROOT / "scripts" / name for name in SCRIPTS if "." not in name), ROOT / ".ci/run"):
        assert os.access(path, os.X_OK), path
