"""Getting a model into rust_circuit's tensor cache, and out of it again, verified.

A checkpoint is converted at first use; afterwards the model is loaded from the cache alone. The cache has one file for
each tensor, named by the tensor's hash, so every load proves that the tensors are those of the model's description. For
GPT-2 small this has the 197 hashes published with the paper (`data/gpt2_tensors.json`). rust_circuit and this module
read each other's caches, but rust_circuit is not needed.

    >>> model = load_model("standin")  # or "gpt2", another GPT-2 of the hub, or a folder with a checkpoint
    >>> model.name, model.architecture.n_layers, len(model.tensors)
    ('stand-in', 12, 197)
    >>> is_gpt2_small(model)
    False
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import torch
from blake3 import blake3

from path_patching.errors import UserError, first_line
from path_patching.files import (
    named_path,
    reading,
    regular,
    write_text,
    written_whole,
)
from path_patching.gpt2 import DATA
from path_patching.gpt2.checkpoint import GET_AGAIN, read_checkpoint, read_config, some_of, source_files
from path_patching.gpt2.circ_text import HASH_DIGITS, Description, from_text, to_text
from path_patching.gpt2.hub import ModelUnavailable, found_here, hub_checkpoint, to_be_deleted
from path_patching.gpt2.model import GPT2_SMALL, Architecture, Model
from path_patching.gpt2.names import GPT2_NAME, OWNERS, Named, named
from path_patching.progress import progress

PUBLISHED_HASHES = DATA / "gpt2_tensors.json"

# rust_circuit hashes this, then the shape, the type and the bytes.
SHAPE_MARK = b"c3c5ce3e-7d06-4939-8340-2a7e6b2984b4"
TYPE_MARK = b"fb782993-5fe7-43ac-acc2-d57fb429c2fc"
BYTES_MARK = b"9430f5c7-3c58-4339-b863-5449a4d74ee6"

FINGERPRINT_DIGITS = 32


class CacheError(UserError):
    """A tensor that is missing in the cache, or differs from its description."""


# Models


def load_model(name: str, as_published: bool = False) -> Model:
    """The model `name`: "gpt2", "standin", another GPT-2 of the hub, or a checkpoint's folder (`names.A_MODEL`).

    It is converted into the tensor cache at first use and loaded from there afterwards; every tensor's hash is checked
    each time. `as_published` reads the weights with the erf GELU of the published circuit description. Raises
    `ModelUnavailable` if a model of the hub cannot be downloaded, `UserError` for everything else that is wrong.
    """
    asked = named(name)
    if asked.name == "gpt2":
        model = _load_gpt2()
    elif asked.folder is None:
        model = _load_from_hub(asked)
    else:
        model = _load_folder(asked.folder, asked.title, description_path(name))
    return model.with_activation("gelu") if as_published else model


def published_description() -> Description:
    """GPT-2 small as published with the paper: the hashes that its tensors must have, wherever they come from."""
    table = json.loads(PUBLISHED_HASHES.read_text(encoding="utf-8"))["tensors"]
    return Description(GPT2_SMALL, {name: entry["hash"] for name, entry in table.items()})


def is_gpt2_small(model: Model) -> bool:
    """Whether these are the weights published with the paper, whatever the model is called."""
    published = published_description()
    if replace(model.architecture, activation=published.architecture.activation) != published.architecture:
        return False
    return all(hash_tensor(model.tensors[name]).startswith(hash_) for name, hash_ in published.hashes.items())


def description_path(name: str) -> Path:
    """The path of the circuit description of the model `name`; folders of the same name have different ones."""
    return cache_folder() / "circuits" / f"{named(name).file_name(12)}.circ"


def source_folder(name: str) -> Path | None:
    """The folder that the model `name` came from, which may have a tokenizer.

    None for GPT-2 small and the stand-in, whose tokenizer is ours, and for a download that was deleted.
    """
    asked = named(name)
    if asked.name in ("gpt2", "standin"):
        return None
    return asked.folder or found_here(asked.repository or "", asked.revision, _downloads())


def _load_gpt2() -> Model:
    path = description_path("gpt2")
    description = published_description()
    try:
        model = read_model(GPT2_NAME, description)
    except CacheError as problem:
        if path.is_file():
            print(f"{problem}; converting {GPT2_NAME} again", file=sys.stderr)
        _convert_gpt2(description, problem)
        model = read_model(GPT2_NAME, description)
    if _read_description(path) != description:  # the tensors may be the paper's own download
        with suppress(UserError):  # the disk may be read-only; only rust_circuit reads the file
            _write_description(path, description)
    return model


def _convert_gpt2(published: Description, problem: CacheError) -> None:
    """Convert the published tensors into the cache; nothing else is ever written under GPT-2's name.

    Raises `ModelUnavailable` if they cannot be downloaded; if a damaged download is there, it says what to delete.
    """
    try:
        folder = hub_checkpoint(f"{OWNERS['gpt2']}/gpt2", None, _downloads())
    except ModelUnavailable as reason:
        raise ModelUnavailable(
            f"{GPT2_NAME} is not in the tensor cache ({problem}) and cannot be downloaded ({reason}); connect to the "
            "Hugging Face hub, or bring its files with `hf download openai-community/gpt2` and HF_HOME, or use a "
            "local copy (model PATH), or try the stand-in (model standin)"
        ) from reason
    with _to_be_fetched_again(folder):
        tensors, hashes = _published_tensors(folder, published)
    _write_tensors(GPT2_NAME, tensors, hashes)


def _downloads() -> Path:
    return cache_folder() / "downloads"


@contextmanager
def _to_be_fetched_again(folder: Path) -> Iterator[None]:
    """Within it, a download is read. If something is wrong with it, the error says what to delete."""
    try:
        yield
    except UserError as reason:
        raise ModelUnavailable(
            f"{reason}; nothing of it is used: delete {to_be_deleted(folder)} and try again"
        ) from reason


def _published_tensors(folder: Path, published: Description) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """A checkpoint's tensors and their hashes. Raises `UserError` unless they are the published ones."""
    architecture, tensors = read_checkpoint(folder)
    if architecture != published.architecture:
        raise UserError(f"{folder} is not {GPT2_NAME}: its config.json says {architecture}")
    hashes = {name: hash_tensor(tensor) for name, tensor in tensors.items()}
    wrong = {name for name, hash_ in hashes.items() if not hash_.startswith(published.hashes[name])}
    if wrong:
        raise UserError(
            f"{folder} is not the paper's {GPT2_NAME}: the hashes of {some_of(wrong)} differ from the published ones"
        )
    return tensors, hashes


def _load_from_hub(asked: Named) -> Model:
    """A model of the hub. Once it is in the tensor cache, the hub is not asked."""
    path = description_path(asked.name)
    description = _read_description(path)
    if description is not None:
        try:
            return read_model(asked.title, description)
        except CacheError as problem:
            print(f"{problem}; converting {asked.title} again", file=sys.stderr)
    try:
        folder = hub_checkpoint(asked.repository or "", asked.revision, _downloads())
    except ModelUnavailable as reason:
        raise ModelUnavailable(
            f"{asked.title} is no folder here, and cannot be downloaded from the Hugging Face hub ({reason}); "
            "mend the name, or give a checkpoint's folder"
        ) from reason
    with _to_be_fetched_again(folder):
        source, checkpoint = _source_of(folder), read_checkpoint(folder)
    description = _converted(asked.title, *checkpoint, source)
    _write_description(path, description)
    return read_model(asked.title, description)


def _load_folder(folder: Path, name: str, path: Path) -> Model:
    """The model of a checkpoint folder. After conversion the folder may go, but if it is there it must not differ."""
    description = _read_description(path)
    if description is not None and not os.path.exists(folder):  # pathlib's own raises for names that are too long
        try:
            return read_model(name, description)
        except CacheError as problem:
            raise UserError(f"{problem}, and {folder}, which it was converted from, is gone") from problem
    source = _source_of(folder)
    if description is not None and description.source == source:
        try:
            return read_model(name, description)
        except CacheError as problem:
            print(f"{problem}; converting {folder} again", file=sys.stderr)
    description = _converted(name, *read_checkpoint(folder), source)
    _write_description(path, description)
    return read_model(name, description)


def _converted(
    name: str, architecture: Architecture, tensors: Mapping[str, torch.Tensor], source: Mapping[str, object]
) -> Description:
    """Write a checkpoint's tensors into the cache. `source` is read before, so that a later change is noticed."""
    hashes = {tensor_name: hash_tensor(tensor) for tensor_name, tensor in tensors.items()}
    _write_tensors(name, tensors, hashes)
    short = {tensor_name: hash_[:HASH_DIGITS] for tensor_name, hash_ in hashes.items()}
    return Description(architecture, short, source)


def _source_of(folder: Path) -> dict[str, object]:
    """What a description says of its checkpoint: the folder, the config and a hash of each weight file.

    Sizes and times would not do: archives and `cp -p` can keep them for other content. Hashing the 548 MB of GPT-2
    small takes about as long as reading them.
    """
    _, *weight_files = source_files(folder)
    hashes = {path.name: _hash_file(path) for path in weight_files}
    return {"folder": str(folder), "config": read_config(folder), "files": hashes}


def _hash_file(path: Path) -> str:
    with reading(path, GET_AGAIN):
        return blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()


# Tensors and descriptions in the cache


def read_model(name: str, description: Description) -> Model:
    """The model whose tensors `description` names, each checked against its hash.

    Raises `CacheError` for the first tensor that is missing, damaged, or not the one that its name says.
    """
    shapes = description.architecture.tensor_shapes()
    read: dict[str, tuple[str, torch.Tensor]] = {}  # by short hash; tied embeddings are one tensor
    for tensor_name, shape in progress(shapes.items(), f"loading {name}", len(shapes)):
        short = description.hashes[tensor_name]
        if short not in read:
            read[short] = _read_tensor(tensor_name, short)
        if read[short][1].shape != shape:
            raise CacheError(f"tensor {tensor_name}: {short} is not of the shape {shape}")
    hashes = {tensor_name: read[description.hashes[tensor_name]][0] for tensor_name in shapes}
    tensors = {tensor_name: read[description.hashes[tensor_name]][1] for tensor_name in shapes}
    fingerprint = _fingerprint(hashes, description.architecture.activation)
    return Model(name, description.architecture, tensors, fingerprint, description.config)


def _fingerprint(hashes: Mapping[str, str], activation: str) -> str:
    """One hash over all tensors' names and hashes and the activation's name."""
    lines = [f"{tensor_name} {hash_}\n" for tensor_name, hash_ in hashes.items()]
    return f"{sha256(''.join(lines).encode()).hexdigest()[:FINGERPRINT_DIGITS]}+{activation}"


def cache_folder() -> Path:
    """rust_circuit's tensor cache: TENSORS_CACHE_DIR, else ~/tensors_by_hash_cache. Raises `UserError` without ~."""
    try:
        return named_path(os.environ.get("TENSORS_CACHE_DIR") or Path.home() / "tensors_by_hash_cache")
    except RuntimeError as error:
        raise UserError(
            "there is no home directory for the tensor cache; name a folder with TENSORS_CACHE_DIR"
        ) from error


def download_folder() -> Path | None:
    """Where rust_circuit looks next, and where the paper's README puts its download: RR_RRFS_DIR, else ~/rrfs.

    The folder need not exist; without a home it is None.
    """
    named, by_default = os.environ.get("RR_RRFS_DIR"), os.path.expanduser("~/rrfs")
    folder = named_path(named) if named else Path(by_default) if by_default != "~/rrfs" else None
    return folder / "tensor_db" if folder else None


def hash_tensor(tensor: torch.Tensor) -> str:
    """rust_circuit's hash of a tensor on the CPU, 64 hex digits: BLAKE3 of its shape, type, device and bytes."""
    digest = blake3(max_threads=blake3.AUTO)
    digest.update(SHAPE_MARK + b"".join(size.to_bytes(8, "big", signed=True) for size in tensor.shape))
    digest.update(TYPE_MARK + str(tensor.dtype).removeprefix("torch.").ljust(7, "-").encode() + b"cpu")
    digest.update(BYTES_MARK)
    digest.update(tensor.detach().contiguous().numpy().reshape(-1).view("uint8").data)
    return digest.hexdigest()


def tensor_path(folder: Path, hash_: str) -> Path:
    """The path of a tensor below `folder`: <4 hex>/<4 hex>/<56 hex>; for a short hash the beginning of that path."""
    return folder / hash_[:4] / hash_[4:8] / hash_[8:]


def _read_tensor(name: str, short: str) -> tuple[str, torch.Tensor]:
    """The tensor whose hash begins with `short`, and its whole hash. Raises `CacheError`."""
    paths = [tensor_path(folder, short) for folder in (cache_folder(), download_folder()) if folder]
    problems = []
    for file in (file for path in paths for file in _called_like(path)):
        try:
            return _tensor_in(file, name, short)
        except CacheError as problem:  # another file may hold it undamaged
            problems.append(problem)
    raise problems[0] if problems else CacheError(f"tensor {name}: there is no {paths[0]}*")


def _called_like(path: Path) -> list[Path]:
    """The files whose names begin like the path's; none in a folder that cannot be listed."""
    with suppress(PermissionError):
        return sorted(path.parent.glob(f"{path.name}*"))
    return []


def _tensor_in(file: Path, name: str, short: str) -> tuple[str, torch.Tensor]:
    """The tensor of a file, and its hash, which has to begin with `short`. Raises `CacheError`."""
    try:
        tensor = torch.load(regular(file), map_location="cpu", weights_only=True).detach()
        hash_ = hash_tensor(tensor)
    except OSError as error:
        raise CacheError(f"tensor {name}: {file} cannot be read ({error.strerror or first_line(error)})") from error
    except Exception as error:  # a damaged file can break any part of the reader
        raise CacheError(f"tensor {name}: {file} is damaged ({first_line(error)})") from error
    if not hash_.startswith(short):
        raise CacheError(f"tensor {name}: {file} holds another tensor, {hash_}")
    return hash_, tensor


def _write_tensors(name: str, tensors: Mapping[str, torch.Tensor], hashes: Mapping[str, str]) -> None:
    """Write every tensor under its hash, as `rust_circuit.save_tensor` does; what lies there already is replaced."""
    files = {hashes[tensor_name]: tensor for tensor_name, tensor in tensors.items()}
    with _cache_writable():
        for hash_, tensor in progress(files.items(), f"converting {name}", len(files)):
            content = io.BytesIO()  # writing to a file, torch.save reports a full disk as another error
            torch.save(tensor, content)
            with written_whole(tensor_path(cache_folder(), hash_)) as partial:
                partial.write_bytes(content.getbuffer())


def _read_description(path: Path) -> Description | None:
    """An earlier description; None if there is none that can be read."""
    try:
        return from_text(regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_description(path: Path, description: Description) -> None:
    with _cache_writable():
        write_text(path, to_text(description))


@contextmanager
def _cache_writable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to the tensor cache {cache_folder()} ({first_line(error)}); "
            "free space there or choose another folder with TENSORS_CACHE_DIR"
        ) from error
