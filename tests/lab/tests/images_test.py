#!/usr/bin/env python3
"""The keeping of the lab's images (images.py), with a recipe that makes a file instead of a Debian tree:
made once however many ask, again when the recipe changes, whole or not at all, never removed in use.
"""
import multiprocessing
import os
import shutil
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import images  # noqa: E402

RECIPE = """#!/bin/sh
echo made >>"{log}"
echo "$1" >"$2/suite"
sleep 0.5
exit {code}
"""


def recipe(code=0, text=""):
    """A new recipe in the current folder; its `make` leaves a line in the file 'log' whenever it runs."""
    shutil.rmtree("recipe", ignore_errors=True)
    os.mkdir("recipe")
    with open("recipe/make", "w") as file:
        file.write(RECIPE.format(log=os.path.abspath("log"), code=code) + "# " + text)
    os.chmod("recipe/make", 0o755)
    images.RECIPE = os.path.abspath("recipe")


def times_made():
    return len(open("log").readlines()) if os.path.exists("log") else 0


def folders():
    return sorted(name for name in os.listdir(images.cache()) if os.path.isdir(os.path.join(images.cache(), name)))


def quiet(text):
    pass


def use(_=None):
    with images.held("6.1", quiet) as place:
        return open(os.path.join(place, "suite")).read()


def test_made_once_however_many_ask():
    recipe()
    with multiprocessing.Pool(4) as pool:
        assert pool.map(use, range(8)) == ["bookworm\n"] * 8
    assert times_made() == 1


def test_a_changed_recipe_makes_a_new_one_and_keeps_the_recent():
    recipe()
    use()
    recipe(text="changed")
    use()
    assert times_made() == 2 and len(folders()) == 2, folders()
    recipe()
    use()
    assert times_made() == 2, "the older recipe's images are still there"


def test_old_ones_go_when_a_new_one_is_made_but_not_in_use():
    recipe()
    with images.held("6.1", quiet) as place:
        old = time.time() - 2 * images.KEEP_S
        os.utime(place, (old, old))
        recipe(text="second")
        use()
        assert os.path.exists(place), "removed while in use"
    os.utime(place, (old, old))
    recipe(text="third")
    use()
    assert not os.path.exists(place) and len(folders()) == 2, folders()


def test_a_failed_one_leaves_nothing():
    recipe(code=3)
    try:
        use()
    except images.Failure as failure:
        assert "exit code 3" in str(failure)
    else:
        raise AssertionError("a failing recipe made an image")
    assert folders() == []
    recipe()
    assert use() == "bookworm\n"


def test_clean_removes_all_but_what_runs_and_other_kernels():
    recipe()
    use()
    with images.held("6.12", quiet) as other:
        images.clean(None, quiet)
        assert folders() == [os.path.basename(other)]
    images.clean("6.1", quiet)
    assert folders() == [os.path.basename(other)]
    images.clean("6.12", quiet)
    assert folders() == []


def run_machine(_=None):
    """How many ran while this one did."""
    with images.slot(quiet):
        mark = tempfile.mkdtemp(dir="running")
        time.sleep(0.3)
        count = len(os.listdir("running"))
        os.rmdir(mark)
    return count


def test_no_more_machines_than_the_host_has_room_for():
    images.slots = lambda: 2
    os.mkdir("running")
    with multiprocessing.Pool(5) as pool:
        counts = pool.map(run_machine, range(5), chunksize=1)
    assert max(counts) <= 2, counts


def main():
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            with tempfile.TemporaryDirectory(prefix="lab-images.") as scratch:
                os.chdir(scratch)
                os.environ["XDG_CACHE_HOME"] = os.path.join(scratch, "cache")
                test()
                os.chdir("/")
            print("ok  ", name)


if __name__ == "__main__":
    images.TOOLS = ()
    main()
