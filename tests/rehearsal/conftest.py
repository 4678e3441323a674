"""What the commands on stand-in GPUs find."""

from pathlib import Path

import pytest
from made_images import write_grey_folders

from rmeeto_bench.data.layouts.fashion_mnist import CLASSES


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images of all classes, ten each."""
    folder = tmp_path_factory.mktemp("gpu")
    write_grey_folders(folder / "data", {name.replace("/", "_"): label for label, name in enumerate(CLASSES)})
    return folder
