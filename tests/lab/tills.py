"""Tills that pay through boxes over the network and keep every answer; run as a program beside the hosts."""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import ssl
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

AMOUNT_MINOR = 100
PORT = 8443
PAUSE_SECONDS = 0.3


class Till(NamedTuple):
    """A client at one box."""

    box: str
    address: str
    token: str
    debit: str
    credit: str

    def pay(self, authority: str, id: str) -> tuple[int, dict[str, Any]]:
        """One payment; the answer's status and body. OSError when there is none."""
        trusted = ssl.create_default_context(cafile=authority)
        connection = http.client.HTTPSConnection(self.address, PORT, timeout=20, context=trusted)
        body = {
            "id": id,
            "debit_account_id": self.debit,
            "credit_account_id": self.credit,
            "amount_minor": AMOUNT_MINOR,
            "currency": "CNY",
        }
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        with contextlib.closing(connection):
            connection.request("POST", "/v1/payments", json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())


def pay_on(till: Till, authority: str, log: Path, ended: threading.Event) -> None:
    """Pay until the end; what was not answered is sent again, under its own id, until it is."""
    id = secrets.token_hex(16)
    with log.open("a", buffering=1) as answers:
        while not ended.wait(PAUSE_SECONDS):
            try:
                status, body = till.pay(authority, id)
            except (OSError, ValueError, http.client.HTTPException) as problem:
                status, body = 0, {"message": str(problem)}
            answers.write(json.dumps({"box": till.box, "id": id, "status": status, "body": body}) + "\n")
            if status == 201 or status == 200:
                id = secrets.token_hex(16)


def main() -> None:
    """Read tills from standard input, one line of JSON; pay until that ends."""
    authority, log = sys.argv[1:]
    ended = threading.Event()
    tills = [Till(**one) for one in json.loads(sys.stdin.readline())]
    threads = [
        threading.Thread(target=pay_on, args=(till, authority, Path(f"{log}.{till.box}"), ended))
        for till in tills
    ]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    ended.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
