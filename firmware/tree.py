"""What is done to a whole tree of files: globs removed, one time for everything, sizes by folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from firmware.places import remove


def remove_globs(root: Path, globs: Iterable[str], *, kept: Iterable[str] = ()) -> None:
    """Remove what the globs (relative to the root) find, not what `kept` finds; then folders left empty."""
    stay = {path for glob in kept for path in root.glob(glob)}
    folders = set()
    for glob in globs:
        for path in sorted(root.glob(glob)):
            if path in stay or any(path in held.parents for held in stay):
                continue
            remove(path)
            folders.add(path.parent)
    for folder in sorted(folders, key=lambda path: -len(path.parts)):
        if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()


def everything(root: Path) -> Iterator[Path]:
    """All files, links and folders of a tree, in one order on every machine; the root itself last."""
    for folder, folders, files in os.walk(root, topdown=False):
        for name in sorted([*files, *folders]):
            yield Path(folder, name)
    yield root


def set_times(root: Path, epoch: int) -> None:
    """Give every file, link and folder of a tree the same time, in seconds."""
    for path in everything(root):
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def sizes_by_folder(root: Path, *, depth: int, top: int) -> list[tuple[str, int]]:
    """The largest folders of a tree at a depth, with their bytes (blocks on disk are not looked at)."""
    sizes: Counter[str] = Counter()
    for path in everything(root):
        if path.is_file() and not path.is_symlink():
            inner = path.relative_to(root).parts[:-1][:depth]
            sizes["/".join(inner) or "."] += path.lstat().st_size
    return sizes.most_common(top)
