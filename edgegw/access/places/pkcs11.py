"""An HSM or a smart card behind PKCS#11: an AES-256 key that never leaves it wraps the secret
(CKM_AES_KEY_WRAP, RFC 3394).

Needs python-pkcs11 (the extra `pkcs11`) and the maker's module, which runs within the box's process while
the slot is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from edgegw.access.key_files import KeyFileError, read_key_file
from edgegw.access.places import PlaceAway, PlaceRefuses

if TYPE_CHECKING:
    import pkcs11

_KEY_BITS: Final = 256


class _Slot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    token: str
    key_label: str
    wrapped: bytes


class Pkcs11:
    """The place `pkcs11`."""

    def __init__(self, *, module_file: str, token: str, pin_file: str, key_label: str) -> None:
        self._module = module_file
        self._token = token
        self._pin_file = pin_file
        self._label = key_label

    def seal(self, secret: bytes) -> bytes:
        """A slot's content under the token's key, which is made if there is none; raises PlaceAway and
        PlaceRefuses."""
        with self._session(writes=True) as session:
            import pkcs11

            key: Any = self._find(session) or session.generate_key(
                pkcs11.KeyType.AES,
                _KEY_BITS,
                label=self._label,
                store=True,
                capabilities=pkcs11.MechanismFlag.WRAP | pkcs11.MechanismFlag.UNWRAP,
                template={pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False},
            )
            within = session.create_object(
                {
                    pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY,
                    pkcs11.Attribute.KEY_TYPE: pkcs11.KeyType.GENERIC_SECRET,
                    pkcs11.Attribute.VALUE: secret,
                    pkcs11.Attribute.TOKEN: False,
                    pkcs11.Attribute.EXTRACTABLE: True,
                    pkcs11.Attribute.SENSITIVE: False,
                }
            )
            wrapped = key.wrap_key(within, mechanism=pkcs11.Mechanism.AES_KEY_WRAP)
        return msgspec.json.encode(_Slot(token=self._token, key_label=self._label, wrapped=wrapped))

    def open(self, slot: bytes) -> bytes:
        """The secret; raises PlaceAway and PlaceRefuses."""
        try:
            held = msgspec.json.decode(slot, type=_Slot)
        except ValueError as wrong:
            raise PlaceRefuses(
                f"it is no slot of this place ({wrong})", hint="restore it from its backup"
            ) from None
        with self._session(writes=False) as session:
            import pkcs11

            key = self._find(session)
            if key is None:
                raise PlaceRefuses(
                    f"the token {self._token} has no key {self._label} (keys.pkcs11.key_label); it was sealed"
                    f" by {held.key_label} of {held.token}",
                    hint="put the token back that sealed it",
                )
            try:
                within = key.unwrap_key(
                    pkcs11.ObjectClass.SECRET_KEY,
                    pkcs11.KeyType.GENERIC_SECRET,
                    held.wrapped,
                    mechanism=pkcs11.Mechanism.AES_KEY_WRAP,
                    store=False,
                    template={pkcs11.Attribute.EXTRACTABLE: True, pkcs11.Attribute.SENSITIVE: False},
                )
                secret: bytes = within[pkcs11.Attribute.VALUE]
            except pkcs11.PKCS11Error as problem:
                raise PlaceRefuses(
                    f"the key {self._label} of the token {self._token} does not unwrap it ({_name(problem)})",
                    hint="it was altered, or another token of this name sealed it: restore one of them",
                ) from None
        return secret

    def _find(self, session: pkcs11.Session) -> Any:
        """The token's key or None; the library's types leave out what such a key can do."""
        import pkcs11

        found = list(
            session.get_objects(
                {
                    pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY,
                    pkcs11.Attribute.LABEL: self._label,
                }
            )
        )
        if len(found) > 1:
            raise PlaceRefuses(
                f"the token {self._token} has {len(found)} keys {self._label}",
                hint="give each its own label and name one in keys.pkcs11.key_label",
            )
        return found[0] if found else None

    @contextmanager
    def _session(self, *, writes: bool) -> Iterator[pkcs11.Session]:
        """One session with the PIN; raises PlaceAway and PlaceRefuses."""
        pin = self._pin()
        try:
            import pkcs11
        except ImportError:
            raise PlaceAway(
                "python-pkcs11 is not installed", hint="Install edgegw with its extra: edgegw[pkcs11]."
            ) from None
        try:
            token = pkcs11.lib(self._module).get_token(token_label=self._token)
            if pkcs11.TokenFlag.USER_PIN_FINAL_TRY in token.flags:
                raise PlaceRefuses(
                    f"the token {self._token} locks itself at the next wrong PIN, so none is tried",
                    hint="see that keys.pkcs11.pin_file holds the right PIN, and log in once by hand",
                )
            with token.open(rw=writes, user_pin=pin) as session:
                yield session
        except (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange):
            raise PlaceRefuses(
                f"keys.pkcs11.pin_file = {self._pin_file}: the token {self._token} refuses this PIN",
                hint="write the right PIN there before the next start: a few wrong ones lock the token",
            ) from None
        except (pkcs11.PinLocked, pkcs11.PinExpired) as problem:
            raise PlaceRefuses(
                f"the token {self._token} is locked ({_name(problem)})",
                hint="its security officer unlocks it and sets a new PIN",
            ) from None
        except pkcs11.PKCS11Error as problem:
            raise PlaceAway(
                f"keys.place = pkcs11: the token {self._token} of {self._module} does not serve"
                f" ({_name(problem)})",
                hint="See that the HSM is reachable, and keys.pkcs11.module_file and token.",
            ) from None

    def _pin(self) -> str:
        for option in ("module", "token", "pin_file"):
            if not getattr(self, f"_{option}"):
                name = "module_file" if option == "module" else option
                raise PlaceRefuses(f"keys.pkcs11.{name} is not given", hint="give it in the settings")
        try:
            return read_key_file(Path(self._pin_file)).decode().strip()
        except (KeyFileError, UnicodeDecodeError) as problem:
            hint = getattr(problem, "hint", "write the PIN as its one line")
            raise PlaceRefuses(f"keys.pkcs11.pin_file = {problem}", hint=hint) from None


def _name(problem: Exception) -> str:
    """What a PKCS#11 error is called, with its text if it has one."""
    text = str(problem)
    return f"{type(problem).__name__}: {text}" if text else type(problem).__name__
