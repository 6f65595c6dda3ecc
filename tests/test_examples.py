"""The notebooks in examples/ run, smaller than they are, and show what they should."""

import json
from pathlib import Path

import pytest

from tests.programs import write_programs

SMALLER = {
    "finetune_your_folder": {
        "[:300]": "[:100]",
        '"input.size": 64': '"input.size": 64, "trainer.threads": 1',
    },
    "study_and_report": {"epochs: 10,": "epochs: 2,", "epochs: 20,": "epochs: 4,", "[0, 1, 2]": "[0, 1]"},
}
EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
    text = "".join("".join(cell["source"]) for cell in cells)
    assert all(whole in text for whole in SMALLER[path.stem])
    assert path.stat().st_size < 20_000


@pytest.fixture
def programs(tmp_path, warm, monkeypatch):
    """The programs that notebooks call, which are an environment's."""
    write_programs(tmp_path / "bin", warm)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site-cache"))
    return tmp_path / "bin"


@pytest.fixture
def kernel(tmp_path, warm, monkeypatch):
    """The name of a kernel that starts at once."""
    folder = tmp_path / "jupyter/kernels/warm"
    folder.mkdir(parents=True)
    words = [str(warm), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({"argv": words, "display_name": "", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    return folder.name


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
# Jupyter's kernels listen on this machine; nbclient leaves its event loop to the collector of garbage.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_notebooks_run(path, tmp_path, monkeypatch, programs, kernel):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(path.parents[1] / "src"))
    notebook = nbformat.read(path, 4)
    first = f"import os; os.environ['PATH'] = {str(programs)!r} + ':' + os.environ['PATH']"
    for cell in notebook.cells:
        for whole, small in SMALLER[path.stem].items():
            cell.source = cell.source.replace(whole, small)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(first))
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=900, kernel_name=kernel, resources=resources).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    html = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert sum("data:image/" in text for text in html) >= 2
    assert any("s</small>" in text for text in html)  # progress, when it has ended
    assert all("<progress" not in text for text in html)
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "Warning" not in printed
    (store,) = tmp_path.glob("**/mlflow.db")
    assert list((store.parent / "runs" / "finetune").iterdir())
    if path.stem == "study_and_report":
        assert any("gain over scratch" in text and "data:image/png" in text for text in html)
