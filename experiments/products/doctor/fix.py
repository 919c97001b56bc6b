"""Removing what is wrong where nothing is lost by it.

The next workflow makes again whatever `fix` removes, or nobody needs it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from experiments.data.cache import read_meta
from experiments.declare.scales import Scale
from experiments.errors import UserError
from experiments.files import cannot_write, remove_unheld, take_lock, will_be
from experiments.products.doctor.finding import Finding
from experiments.products.doctor.runs import misnamed
from experiments.runs.places import results_dir
from experiments.runs.store import Store, Stored


def fix(found: Iterable[Finding], scale: Scale, stale: bool) -> dict[Finding, bool]:
    """Remove what can be removed.

    Args:
        found: by `examine`.
        scale: of the results.
        stale: whether to remove what is of other code or data, too.

    Returns:
        Whether it is gone, for each finding that was to be fixed.

    Raises:
        UserError: if a workflow is running, or the folder cannot be written.
    """
    store = Store(results_dir(scale))
    chosen = [f for f in found if f.fixable and not f.note and (stale or not f.stale)]
    if not chosen:
        return {}
    workflow = FileLock(store.folder / ".workflow.lock")
    if not take_lock(workflow, "", wait=False):
        raise UserError(f"a workflow runs in {store.folder}; fix it when that has ended")
    try:
        return {finding: _fix(finding, store) for finding in chosen}
    except OSError as error:
        raise cannot_write(store.folder, error) from error
    finally:
        workflow.release()


def _fix(finding: Finding, store: Store) -> bool:
    done = [_remove(path) for path in finding.files]
    done += [_remove_prepared(path) for path in finding.prepared]
    return all(done + [_drop(one, store) for one in finding.runs])


def _remove(path: Path) -> bool:
    if path.suffix == ".lock" or will_be(path.name):
        return remove_unheld(path)
    path.unlink(missing_ok=True)
    return True


def _remove_prepared(path: Path) -> bool:
    """Remove a folder of the cache, unless it is being prepared or was prepared meanwhile."""
    lock = FileLock(f"{path}.lock")
    if not take_lock(lock, "", wait=False):
        return False
    try:
        if read_meta(path) is not None:
            return False
        shutil.rmtree(path)
        return True
    finally:
        lock.release()


def _drop(one: Stored, store: Store) -> bool:
    """Drop a run, set it aside or rename it, unless it is being trained or has changed."""
    lock = store.lock(one.id)
    if not take_lock(lock, "", wait=False):
        return False
    try:
        now = store.look(one.id)
        if not _same(now, one):
            return False
        if misnamed(now, store):
            store.path(now.id).rename(store.path(now.holds))
        elif now.state == "damaged":
            store.set_aside(now.id)
        else:
            store.remove(now.id)
        return True
    finally:
        with suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()


def _same(now: Stored, before: Stored) -> bool:
    if now.record is None or before.record is None:
        return now.state == before.state
    return now.record.provenance == before.record.provenance
