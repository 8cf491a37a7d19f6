"""Verify what is committed: published notebooks, reference results and the tables made of them."""

import nbformat

from sft_utils.nbpublish import problems, publish_command
from sft_utils.nbsource import Layout, notebook_names


def verify(layout: Layout) -> list[str]:
    """Name everything that is wrong with the committed notebooks; empty when all is well."""
    names = notebook_names(layout)
    found = []
    for notebook in names:
        path = layout.published(notebook)
        if path.is_file():
            nb = nbformat.read(path, as_version=4)
            found += problems(layout, notebook, nb, n_bytes=path.stat().st_size)
        else:
            found.append(f"{notebook}: not published. {publish_command(notebook)}")
    for path in sorted((layout.root / "notebooks").glob("*.ipynb")):
        if path.stem not in names:
            found.append(f"{path.stem}: published without a source. Remove notebooks/{path.name}")
    return found
