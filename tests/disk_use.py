"""What a folder takes on the disk, to find what grows."""

from pathlib import Path


def disk_use(folder: Path) -> tuple[int, int]:
    """(files and folders, bytes) below a folder; links are not followed."""
    paths = [path for path in folder.rglob("*") if not path.is_symlink()]
    return len(paths), sum(path.stat().st_size for path in paths if path.is_file())
