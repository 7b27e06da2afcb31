"""`s2robot cache`: what is listed is what is there, and what goes is what was asked for."""

import json
import os
import shutil
import time
from dataclasses import replace

import pytest
from helpers import PooledPixels, write_dataset

from s2robot.cli import main
from s2robot.data import open_dataset
from s2robot.feature_cache import BLOCK_FRAMES, cache_features, list_entries, select_entries

LENGTHS = (40, 40)


@pytest.fixture
def path(tmp_path):
    return write_dataset(tmp_path / "demos.hdf5", LENGTHS)


@pytest.fixture
def root(tmp_path, path):
    """A cache of three entries: a whole one, a part of one, and a shifted copy of the first."""
    with open_dataset(path) as dataset:
        cache_features(dataset, PooledPixels(), "agentview", tmp_path / "cache", num_shifts=1, shift_pixels=2)
        cache_features(dataset, PooledPixels(), "wrist", tmp_path / "cache", num_episodes=1)
    return tmp_path / "cache"


def age(info, days):
    used = time.time() - days * 86_400
    os.utime(info.folder / "in_use", (used, used))


def run(capsys, *words):
    status = main(["cache", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def on_disk(folder):
    return sum(512 * path.stat().st_blocks for path in folder.iterdir())


def test_ls_says_what_each_entry_is(root, path, capsys):
    before = {folder: on_disk(folder) for folder in root.iterdir()}
    infos = {(info.camera, info.augmentation): info for info in list_entries(root)}
    assert set(infos) == {("agentview", ""), ("agentview", "shifted by up to 2 pixels, copy 1"), ("wrist", "")}
    assert {info.encoder for info in infos.values()} == {"pooled pixels {2}"}
    assert {info.dataset for info in infos.values()} == {str(path)}
    wrist = infos["wrist", ""]
    assert (wrist.done, wrist.frames) == (2 * BLOCK_FRAMES, 80)
    # Some file systems say only seconds after writing how much room a file takes.
    assert all(before[info.folder] <= info.size <= on_disk(info.folder) for info in infos.values())
    assert all(abs(info.last_used - time.time()) < 3600 for info in infos.values())
    status, out, _ = run(capsys, "ls", f"root={root}")
    assert status == 0
    assert "64/80 frames  pooled pixels {2}, wrist  of " in out
    assert "3 entries, 0.0" in out


def test_ls_as_json_is_the_same(root, capsys):
    assert main(["cache", "ls", f"root={root}", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    assert sorted(entry["done"] for entry in entries) == [64, 80, 80]


def test_last_used_is_the_last_time_a_run_opened_it(root, path):
    for info in list_entries(root):
        age(info, 10)
    with open_dataset(path) as dataset:
        cache_features(dataset, PooledPixels(), "wrist", root, num_episodes=1)
    first, *rest = list_entries(root)
    assert first.camera == "wrist"
    assert all(info.last_used < time.time() - 9 * 86_400 for info in rest)


def test_verify_names_the_damaged_blocks_and_the_next_run_makes_them_again(root, path, capsys):
    assert run(capsys, "verify", f"root={root}")[0] == 0
    folder = next(info.folder for info in list_entries(root) if info.camera == "wrist")
    with (folder / "features.f16").open("r+b") as file:
        file.seek(BLOCK_FRAMES * 30)
        file.write(b"\x55")
    status, out, err = run(capsys, "verify", f"root={root}")
    assert status == 2
    assert f"{folder.name}  damaged blocks [1]" in out
    assert out.count("good") == 2
    assert "1 of 3 entries are damaged" in err
    encoder = PooledPixels()
    with open_dataset(path) as dataset:
        cache_features(dataset, encoder, "wrist", root, num_episodes=1)
    assert encoder.frames == BLOCK_FRAMES
    assert run(capsys, "verify", f"root={root}")[0] == 0


def test_prune_only_talks_unless_told_to_delete(root, capsys):
    sized = select_entries(list_entries(root), gigabytes=0)  # none where the file system gives small files no blocks
    assert f"{len(sized)} of 3 entries" in run(capsys, "prune", f"root={root}", "gigabytes=0")[1]
    status, out, _ = run(capsys, "prune", f"root={root}", "days=0")
    assert status == 0
    assert "3 of 3 entries" in out
    assert "delete=true deletes them" in out
    assert len(list_entries(root)) == 3
    assert "deleted 3 of 3 entries" in run(capsys, "prune", f"root={root}", "days=0", "delete=true")[1]
    assert list_entries(root) == []


def test_prune_by_age_takes_the_old(root, capsys):
    old = next(info for info in list_entries(root) if info.camera == "wrist")
    age(old, 31)
    run(capsys, "prune", f"root={root}", "days=30", "delete=true")
    assert old.folder.name not in [info.folder.name for info in list_entries(root)]
    assert len(list_entries(root)) == 2


def test_prune_by_size_takes_the_least_recently_used_until_the_rest_fits(root):
    entries = list_entries(root)
    for days, info in enumerate(entries):
        age(info, days)
    sizes = (3000, 2000, 4000)  # not every file system says what a small file takes
    entries = [replace(info, size=size) for info, size in zip(list_entries(root), sizes, strict=True)]
    assert select_entries(entries, gigabytes=5001 / 1e9) == [entries[2]]
    assert select_entries(entries, gigabytes=4999 / 1e9) == entries[1:]
    assert select_entries(entries, gigabytes=1) == []
    assert select_entries(entries, gigabytes=0) == entries


def test_prune_missing_takes_what_no_run_can_use(root, path, capsys):
    assert select_entries(list_entries(root), missing=True) == []
    foreign, damaged, _ = list_entries(root)
    manifest = json.loads((foreign.folder / "manifest.json").read_text())
    (foreign.folder / "manifest.json").write_text(json.dumps({**manifest, "layout": 1}))
    (damaged.folder / "manifest.json").write_text("{")
    out = run(capsys, "ls", f"root={root}")[1]
    assert "written by another version (layout 1; this version reads 2)" in out
    assert "manifest cannot be read (JSONDecodeError)" in out
    assert run(capsys, "verify", f"root={root}")[0] == 0  # no block of theirs is known to be damaged
    assert len(select_entries(list_entries(root), missing=True)) == 2
    path.unlink()
    assert "(no longer there)" in run(capsys, "ls", f"root={root}")[1]
    assert len(select_entries(list_entries(root), missing=True)) == 3


def test_rest_of_an_interrupted_prune_goes_with_the_next(root, capsys):
    folder = list_entries(root)[0].folder
    folder.rename(root / f".deleted-{folder.name}")
    assert len(list_entries(root)) == 2
    run(capsys, "prune", f"root={root}", "days=1", "delete=true")
    assert len(list(root.iterdir())) == 2


def test_rest_of_an_interrupted_prune_is_no_hindrance_to_the_entry_made_anew(root, capsys):
    folder = list_entries(root)[0].folder
    shutil.copytree(folder, root / f".deleted-{folder.name}")
    assert "deleted 3 of 3 entries" in run(capsys, "prune", f"root={root}", "days=0", "delete=true")[1]
    assert list(root.iterdir()) == []


def test_what_is_not_a_cache_is_left_alone(root, capsys):
    (root / "mine").mkdir()
    (root / "mine" / "notes.txt").write_text("keep")
    run(capsys, "prune", f"root={root}", "days=0", "delete=true")
    assert [path.name for path in root.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "unknown action of s2robot cache ''. Choices: ls, prune, verify"),
        (["list"], "unknown action of s2robot cache 'list'"),
        (["ls", "root=nowhere"], "there is no feature cache at 'nowhere'"),
        (["ls", "days=3"], "unknown setting 'days'"),
        (["prune"], "needs at least one rule: days=30, gigabytes=50 or missing=true"),
        (["prune", "days=-1"], "days=-1.0 is not possible"),
    ],
)
def test_wrong_words_are_one_clear_error(capsys, words, message):
    status, _, err = run(capsys, *words)
    assert status == 2
    assert message in err


def test_a_pruned_entry_is_made_again(root, path):
    for info in list_entries(root):
        shutil.rmtree(info.folder)
    encoder = PooledPixels()
    with open_dataset(path) as dataset:
        cache_features(dataset, encoder, "agentview", root)
    assert encoder.frames == 80
