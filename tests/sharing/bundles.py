"""Bundles made by hand, byte by byte, for tests: whole ones and malicious ones."""

import io
import json
import struct
import zlib

import numpy as np

from speechbrain_ext.sharing.bundle.manifest import describe_files, manifest_bytes

FILE = 0o100644
RECIPE = "seed: 1\noutput_folder: !PLACEHOLDER\nrate: !ref <seed> * 2\n"


def entry(name, data=b"x", **changes):
    """Describe a member as it stands in the archive; changes are what is wrong."""
    method = changes.pop("method", 0)
    packed = data
    if method == 8:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = deflate.compress(data) + deflate.flush()
    name = name if isinstance(name, bytes) else name.encode()
    facts = {
        "name": name,
        "local_name": name,
        "packed": packed,
        "method": method,
        "flags": 0 if name.isascii() else 0x800,
        "crc": zlib.crc32(data),
        "size": len(data),
        "packed_size": len(packed),
        "mode": FILE,
        "attributes": 0,
        "extra": b"",
        "comment": b"",
        "gap": b"",
    }
    return facts | changes


def raw_zip(entries, *, before=b"", behind=b"", comment=b"", count=None, shift=0):
    """Write an archive of such members; nothing is checked."""
    body, directory = io.BytesIO(), io.BytesIO()
    body.write(before)
    for e in entries:
        body.write(e["gap"])
        offset = e.get("offset", body.tell())
        common = (e["flags"], e["method"], 0, 33, e["crc"], e["packed_size"], e["size"])
        if "offset" not in e:
            names = len(e["local_name"]), len(e["extra"])
            body.write(struct.pack("<4s5H3I2H", b"PK\3\4", 20, *common, *names))
            body.write(e["local_name"] + e["extra"] + e["packed"])
        lengths = len(e["name"]), len(e["extra"]), len(e["comment"])
        attributes = e["mode"] << 16 | e["attributes"]
        directory.write(
            struct.pack(
                "<4s6H3I5H2I",
                b"PK\1\2",
                3 << 8 | 20,
                20,
                *common,
                *lengths,
                0,
                0,
                attributes,
                offset,
            )
        )
        directory.write(e["name"] + e["extra"] + e["comment"])
    start, table = body.tell(), directory.getvalue()
    count = len(entries) if count is None else count
    end = struct.pack(
        "<4s4H2IH",
        b"PK\5\6",
        0,
        0,
        count,
        count,
        len(table),
        start + shift,
        len(comment),
    )
    return body.getvalue() + table + end + comment + behind


def whole(members=None, **changes):
    """Members of a bundle whose manifest fits them, as name -> bytes."""
    members = {"recipe.yaml": RECIPE.encode()} | (members or {})
    manifest = {
        "format": "speechbrain-ext bundle",
        "version": 1,
        "kind": "recipe",
        "name": "toy",
        "task": None,
        "config_hash": "0" * 64,
        "inputs": ["output_folder"],
        "versions": {"speechbrain_ext": "0.1.0"},
        "library_sha256": "0" * 64,
        "scripts": {},
        "model": None,
        "files": describe_files(members),
    } | changes
    return members | {"manifest.json": manifest_bytes(manifest)}


def with_manifest(data):
    """Members of a bundle whose manifest is just these bytes."""
    return whole() | {"manifest.json": data}


def entries(members=None, **changes):
    """`whole` as entries, to be changed one by one."""
    return [
        entry(name, data) for name, data in sorted(whole(members, **changes).items())
    ]


def zipped(members):
    """Write members as they are, deflated."""
    return raw_zip([entry(n, d, method=8) for n, d in sorted(members.items())])


def npz(compressed=False, **arrays):
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return stream.getvalue()


def scores(**changes):
    """Arrays of a file of scores."""
    arrays = {
        "labels": np.array([True, False]),
        "enroll": np.array([0, 1], np.int32),
        "test": np.array([1, 0], np.int32),
        "ids": np.array(["a", "b"]),
        "scores": np.array([0.5, 0.1]),
    }
    return arrays | changes


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data
