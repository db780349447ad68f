"""The published OpenAPI document against a real box: every operation, every check, nothing filtered."""

import asyncio
import re
import sys
from pathlib import Path

from edgegw.core.records import Account
from tests.payments.branch import BOX, open_branch

CASES_MIN = 1_000
EXAMPLES = "8"
# The accounts of the document's examples, so that payments are cleared, not only refused.
ACCOUNTS = ("alice", "shop-1")


async def test_every_operation_keeps_every_promise_of_the_document(tmp_path: Path) -> None:
    """A client that is generated from the document must meet no answer that the document lacks."""
    async with open_branch(tmp_path) as branch:
        accounts = tuple(Account(id=name, currency="CNY", home=BOX) for name in ACCOUNTS)
        await branch.use_site(branch.site(version=2, accounts=accounts))
        for account in accounts:
            await branch.grant(account.id, 10**15)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "schemathesis.cli",
            "run",
            f"{branch.url}/v1/openapi.json",
            "--header",
            f"Authorization: Bearer {branch.token()}",
            "--checks=all",
            "--request-timeout=60",
            f"--max-examples={EXAMPLES}",
            "--seed=1",
            "--no-color",
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        text = output.decode()
        assert process.returncode == 0, text
        cases = re.search(r"(\d+) generated, (\d+) passed", text)
        assert cases is not None
        assert int(cases[1]) == int(cases[2]) >= CASES_MIN
        operations = re.search(r"Selected: (\d+)/(\d+)", text)
        assert operations is not None
        assert operations[1] == operations[2]
        assert branch.pen.failure is None
        counted = branch.metrics.exposition()[0].decode()
        assert 'cleared_by="allowance",kind="payment",outcome="cleared"' in counted
        assert 'cleared_by="allowance",kind="hold",outcome="cleared"' in counted
        assert 'cleared_by="allowance",kind="reversal",outcome="cleared"' in counted
