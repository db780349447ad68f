"""`python -m tests.audit.vectors DIRECTORY`: public RFC 6962 proof vectors against the journal's functions.

A directory holds one JSON document a file, as the public sets do: `leafIdx` (or `leafIndex`), `treeSize`,
`root`, `leafHash`, `proof` for inclusion; `size1`, `size2`, `root1`, `root2`, `proof` for consistency; bytes
in base64, and `wantErr`. The functions are those that our logs use; only the hash is SHA-256 instead of SM3.
Exit code 1 when one verdict differs, 2 when no vector was found: then nothing is proved.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from pathlib import Path
from typing import Any, Final

from edgegw.core.journal import ProofError, sha256, verify_consistency, verify_inclusion

FILES: Final = "*.json"


def refused(vector: dict[str, Any]) -> str:
    """Why our functions refuse what the vector claims; "" when they take it. KeyError: no vector at all."""
    proof = [base64.b64decode(element) for element in vector["proof"] or ()]
    try:
        if "size1" in vector:
            old_root, root = (base64.b64decode(vector[name]) for name in ("root1", "root2"))
            verify_consistency(vector["size1"], vector["size2"], old_root, root, proof, hash=sha256)
        else:
            index = vector["leafIdx"] if "leafIdx" in vector else vector["leafIndex"]
            root, leaf = (base64.b64decode(vector[name]) for name in ("root", "leafHash"))
            verify_inclusion(index, vector["treeSize"], leaf, root, proof, hash=sha256)
    except ProofError as problem:
        return str(problem)
    return ""


def judge(directory: Path) -> dict[str, Any]:
    """The counts over all vectors below a directory, and the files on which the verdicts differ."""
    counts = {"inclusion": 0, "consistency": 0, "to_accept": 0, "to_refuse": 0, "other_files": 0}
    differing = []
    for path in sorted(directory.rglob(FILES)):
        vector = json.loads(path.read_bytes())
        if not isinstance(vector, dict) or "proof" not in vector:
            counts["other_files"] += 1
            continue
        counts["consistency" if "size1" in vector else "inclusion"] += 1
        # Go leaves a false field out of some sets.
        must_refuse = bool(vector.get("wantErr", False))
        counts["to_refuse" if must_refuse else "to_accept"] += 1
        why = refused(vector)
        if bool(why) != must_refuse:
            differing.append({"file": str(path), "must_refuse": must_refuse, "ours": why or "accepted"})
    vectors = counts["inclusion"] + counts["consistency"]
    return {"vectors": vectors, "agree": vectors - len(differing), "differ": differing, **counts}


def main() -> int:
    """Judge a directory and print the counts."""
    parser = argparse.ArgumentParser(prog="python -m tests.audit.vectors", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args()
    found = judge(options.directory)
    if not found["vectors"]:
        parser.error(
            f"no vector in {options.directory}: it looks for {FILES} files below that directory, one object"
            f" with `proof` in each; {found['other_files']} such files hold something else"
            if options.directory.is_dir()
            else f"{options.directory} is not a directory; name the one that holds the vectors' {FILES} files"
        )
    if options.json:
        print(json.dumps(found))
    else:
        print(
            f"{found['vectors']} vectors ({found['inclusion']} inclusion, {found['consistency']} consistency)"
            f": {found['agree']} agree, {len(found['differ'])} differ"
        )
        for one in found["differ"]:
            print(f"{one['file']}: must be {'refused' if one['must_refuse'] else 'accepted'}: {one['ours']}")
    return 1 if found["differ"] else 0


if __name__ == "__main__":
    sys.exit(main())
