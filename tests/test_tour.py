"""The notebook docs/tour.ipynb: what is stored is clean, and it runs."""

import os
import re
from pathlib import Path

import nbformat
import pytest

DOCS = Path(__file__).parents[1] / "docs"
TOUR = DOCS / "tour.ipynb"
# Folders of someone's machine: /home/…, /Users/…, /tmp/…, C:\…; 'image/png' and URLs are none.
MACHINE_PATH = re.compile(
    r"(?<![\w/.:-])(?:~|/(?:home|Users|root|tmp|var|private|usr|opt|mnt|work|workspace|content))/"
    r"|\b[A-Za-z]:\\\w"
)


def code_cells(notebook) -> dict:
    """Code cells by their id."""
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def printed(cell) -> str:
    """What a cell printed to stdout."""
    return "".join(part.text for part in cell.outputs if part.get("name") == "stdout")


def check_is_clean(notebook) -> None:
    """Every cell ran, in order, without errors, warnings or paths of the machine."""
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells.values()] == list(range(1, len(cells) + 1))
    for name, cell in cells.items():
        kinds = {part.output_type for part in cell.outputs}
        assert kinds <= {"stream", "execute_result", "display_data"}, name
        assert cell.outputs or name == "setup", name
        assert not [part for part in cell.outputs if part.get("name") == "stderr"], name
        texts = [part.get("text") or part.data.get("text/plain", "") for part in cell.outputs]
        assert not MACHINE_PATH.search("\n".join([cell.source, *texts])), name
    pictures = [
        part
        for cell in cells.values()
        for part in cell.outputs
        if "image/png" in part.get("data", {})
    ]
    assert len(pictures) == 6


def check_parity(notebook) -> None:
    """PyTorch computes the same logits, and the weights come back as they were."""
    cells = code_cells(notebook)
    text = printed(cells["parity"])
    assert "<All keys matched successfully>" in text
    (difference,) = re.findall(r"largest difference of the logits: (\S+)", text)
    assert 0 <= float(difference) < 1e-5
    assert printed(cells["back"]).rstrip().endswith("True")


def test_stored_notebook_is_small_and_clean():
    assert TOUR.stat().st_size < 600_000
    notebook = nbformat.read(TOUR, as_version=4)
    nbformat.validate(notebook)
    check_is_clean(notebook)
    check_parity(notebook)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("run folder /tmp/tour-1/vit", True),
        ("('/home/me/x')", True),
        (r"C:\Users", True),
        ("run folder vit", False),
        ("https://example.org/home/a", False),
        ("runs/tmp/a, 1/2", False),
    ],
)
def test_machine_paths_are_found(text, is_one):
    assert bool(MACHINE_PATH.search(text)) == is_one


@pytest.mark.slow
def test_notebook_runs_from_docs(tmp_path, monkeypatch):
    """The stored outputs come from a run in the root of the repository."""
    from nbclient import NotebookClient

    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where the notebook keeps its runs
    before = sorted(os.listdir(DOCS))
    notebook = nbformat.read(TOUR, as_version=4)
    for cell in code_cells(notebook).values():
        cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=1200,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(DOCS)}},
    )
    client.execute()
    check_is_clean(notebook)
    check_parity(notebook)
    assert sorted(os.listdir(DOCS)) == before
    assert len(list(tmp_path.glob("tour-*/vit/results.json"))) == 1
