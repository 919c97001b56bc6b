# What the rules need of the registry. No science here, and no torch.
import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir)))

from filelock import FileLock, Timeout

from experiments.declare import registry
from experiments.errors import UserError
from experiments.files import wait_for_lock
from experiments.declare.spec import Figure, check_scale
from experiments.runs.store import Store
from experiments.runs.sweep import groups, missing, resolve_data
from experiments.runs.versions import ROOT, measuring_code, module_file


def stop(error):
    """End with one line and status 2, as the command line does."""
    sys.stderr.write(f"error: {error}\n")
    sys.exit(2)


if "data_dir" in config:
    os.environ.update(MUPKIT_DATA=str(Path(config["data_dir"]).resolve()))  # for the jobs too

try:
    SCALE = check_scale(str(config.get("scale", "small")))
    DATA = resolve_data(config.get("data"))
    GROUPS, NEEDED = groups(SCALE, DATA)
except UserError as error:
    stop(error)

RESULTS = f"results/{SCALE}"
FIGURES = f"figures/{SCALE}"
LOGS = f"logs/{SCALE}"
STORE = Store(Path(workflow.basedir) / RESULTS)
# Not params: another interpreter or number of cores is no reason to run a job again.
EXPERIMENTS = f"{shlex.quote(sys.executable)} -m experiments"
JOBS = workflow.cores or 1
PRODUCTS = {
    name: "figure" if isinstance(product, Figure) else "table"
    for name, product in registry.products().items()
}
# What was asked for by name, so that a job whose runs several products need tells its progress and
# helps with no other's. Nor are these params.
ASKED = " ".join(f"--product {name}" for name in PRODUCTS if name in sys.argv)


def rules_outputs(*kinds):
    """What draw makes of all products of these kinds."""
    return [path for name, kind in PRODUCTS.items() if kind in kinds for path in drawn(name)]


def drawn(name):
    """What draw makes of one product."""
    suffixes = registry.product(name).suffixes
    return [*(f"{FIGURES}/{name}.{s}" for s in suffixes), f"{RESULTS}/{name}/claims.json"]


def tables(name):
    """What collect makes of one product."""
    names = (*(f"{table}.parquet" for table in registry.product(name).tables), "scale.json")
    return [f"{RESULTS}/{name}/{file}" for file in names]


def processes(name):
    """How many processes collect needs: more than one where it trains what follows."""
    return JOBS if registry.product(name).follow_up else 1


def measurement(name):
    """The code of a product's measurement and its settings; nothing for trainings."""
    found = registry.product(name).measurement
    if found is None:
        return [], ""
    return [relative(file) for file in measuring_code(found)], repr(found.at(SCALE))


def relative(file):
    """A path as the rules write it."""
    return str(file.relative_to(ROOT))


def marker(group):
    """The file that says that a group's runs are in the store."""
    return f"{RESULTS}/groups/{group}.done"


def needing(group):
    """The products that need a group; all of them have their data from the same source."""
    return [name for name, needed in NEEDED.items() if group in needed]


def data_option(name):
    """The data source of a product; none where it cannot be had, so that its job says why."""
    source = DATA.get(registry.owner(name).name)
    return f"--data {source}" if source else ""


def drawing_code(name):
    """Files whose change redraws a product."""
    own = {relative(module_file(function)) for function in registry.product(name).functions}
    folder = ROOT / "experiments" / "families" / registry.owner(name).name
    own |= {relative(file) for file in folder.glob("spec*.py")}
    own |= {relative(file) for file in (ROOT / "experiments" / "analysis").glob("*.py")}
    return [*sorted(own), "experiments/products.py"]


# A marker lies if a run of its group was lost or truncated since. Without the marker, and without
# one output of each rule that follows, the group runs again and trains what is missing.
def remove_lying_markers():
    for group_id, group in GROUPS.items():
        if missing(group.runs, STORE):
            stale = [marker(group_id)]
            for name in needing(group_id):
                stale += [f"{RESULTS}/{name}/{file}" for file in ("scale.json", "claims.json")]
            for path in stale:
                (Path(workflow.basedir) / path).unlink(missing_ok=True)


# One workflow at a time in a results folder; a second one waits and then finds the runs done. The
# lock dies with its process, so nobody ever has to unlock anything.
LOCK = FileLock(STORE.folder / ".workflow.lock")
try:
    STORE.folder.mkdir(parents=True, exist_ok=True)
    with suppress(Timeout), LOCK.acquire(timeout=0):
        remove_lying_markers()
except OSError as error:
    stop(f"cannot write {STORE.folder}: {error.strerror}; mend its rights or move it away")


onstart:
    wait_for_lock(LOCK, f"another workflow runs in {RESULTS}")


wildcard_constraints:
    group="[0-9a-f]{12}",
