"""SM2 keys of chosen numbers, for tests: the product itself never sees a private number."""

from __future__ import annotations

import base64

from edgegw.sm.sm2 import PrivateKey

# PKCS#8 (RFC 5208) round an ECPrivateKey (RFC 5915) of curve 1.2.156.10197.1.301: up to the number, and up to
# the point.
PKCS8_HEAD = bytes.fromhex("308187020100301306072a8648ce3d020106082a811ccf5501822d046d306b0201010420")
PKCS8_POINT = bytes.fromhex("a144034200")


def private_pem(number: int, point: bytes) -> bytes:
    """PKCS#8 PEM of a private number, 0 to 2**256 - 1, and the public point that is written beside it."""
    return pem("PRIVATE KEY", PKCS8_HEAD + number.to_bytes(32, "big") + PKCS8_POINT + point)


def number_of(key: PrivateKey) -> int:
    """The private number of a key."""
    der = base64.b64decode(b"".join(key.to_pem().splitlines()[1:-1]))
    start = len(PKCS8_HEAD)
    assert der[:start] == PKCS8_HEAD
    return int.from_bytes(der[start : start + 32], "big")


def pem(label: str, der: bytes) -> bytes:
    """A PEM text of DER."""
    text = base64.b64encode(der).decode()
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()


# Keys of tests, made for how their x begins.
X_04 = [
    private_pem(
        0x5411A871C2D65CC95B8A6DEBE7FCC1ABFD36291F6F3B40C0E8C46C34CEEC5B60,
        bytes.fromhex(
            "0404b34441489d59e2613f6c444cad69e8cac5e3c7fa27998e7079348d3f2c3075"
            "d29352cd07f9ff297a41658500dc4a658956f8e2017d67055c4828fdac0e6155"
        ),
    ),
    private_pem(
        0x93ADE3FCD9A54D4309E2202D776B9F23F0B370D96AAC4D60676141CB7C6ADE36,
        bytes.fromhex(
            "04047e77ff1c947303f9935501d6820bfc2f5e66ddd394900da1758512213dee01"
            "3a8727ea88c4008c26f6dc87068825dde41e5d55f01b0e6985cf845b1474711f"
        ),
    ),
    private_pem(
        0x815D2870EDAB240F2E1004D7B424F5A44D6308F0468A1600FF66FEE9C6FA80A9,
        bytes.fromhex(
            "0404acc147eed3de913b24c62e8dc8d499b2686426e7e24570ea9b4f552533ca5c"
            "a85355bbbc28cdbc5f3fe9fe86649919fcb2f77b347f2c1401cb0079105c1e0b"
        ),
    ),
]
X_00 = [
    private_pem(
        0xC9320DCD24AD38066F7479323C1545766EC2CD1E60606AC63D14E290A860EBB7,
        bytes.fromhex(
            "040028f8441f407aca809476e0de716a1630c5d2b948ee4a37cbd106ce25b06828"
            "999f5c1f3a78d96981e50f5087dad871e71670c0121c2effe5ea4eaf85acbc9c"
        ),
    ),
    private_pem(
        0xA7F94B167A359562CC44E431321E7AF0B98DFFA75B6861CDC9A72929F0629981,
        bytes.fromhex(
            "040008736579da5b9b63f47c85c906140c0d6da2c74026fe65419227094ed0fa48"
            "c88bfbe05804e6caaf6293fdab8ae27397f53edaa5adcf044b3ac558b78522dd"
        ),
    ),
    private_pem(
        0x7001D90C2F5719B871B62F69E417CFC783F9C6EDE989F8431CACD74B3E624AC3,
        bytes.fromhex(
            "0400732731b6e64ff35384f1a638f82a6613ade3a47b849671975d9b0ca0b046b4"
            "76db6a3730b47ca256235b513816c68ff19ffa8df73a82beb211117faabc7d49"
        ),
    ),
]
