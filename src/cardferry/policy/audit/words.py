"""What a command has done, in words, and the digest that it had signed. PINs, keys and data never."""

from __future__ import annotations

from typing import Final

from cardferry.pcsc.applications import Application
from cardferry.policy.operations import Action, Meaning, Operation
from cardferry.policy.operations.objects import objects

_VERBS: Final = {
    Operation.READ: "read",
    Operation.VERIFY: "verified",
    Operation.SIGN: "signed",
    Operation.DECRYPT: "decrypted",
    Operation.AUTHENTICATE: "authenticated",
    Operation.MANAGE_PIN: "changed PIN",
    Operation.WRITE: "wrote",
    Operation.GENERATE: "replaced key",
    Operation.ADMINISTER: "administered",
    Operation.CONTROL: "sent a command to the reader",
    Operation.OTHER: "did something that is not known",
}
_WITH_KEY: Final = frozenset({Operation.SIGN, Operation.DECRYPT, Operation.AUTHENTICATE})
_PINS: Final = frozenset({Operation.VERIFY})
#: DigestInfo in front of a digest (RFC 8017, 9.2), by its algorithm.
_DIGEST_INFO: Final = {
    "SHA-1": bytes.fromhex("3021300906052b0e03021a05000414"),
    "SHA-224": bytes.fromhex("302d300d06096086480165030402040500041c"),
    "SHA-256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "SHA-384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "SHA-512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
_DIGEST_SIZES: Final = {20, 28, 32, 48, 64}
_GENERAL_AUTHENTICATE: Final = 0x87
_DYNAMIC_AUTHENTICATION, _CHALLENGE = 0x7C, 0x81


def operation_text(meaning: Meaning) -> str:
    """As rules write it: ``sign:9C``."""
    return str(meaning.operation) if meaning.object is None else f"{meaning.operation}:{meaning.object}"


def deed(action: Action, digest: str = "", subject: str = "", *, done: bool = True) -> str:
    """What a command does, such as ``signed a SHA-256 digest with PIV 9C, CN=build``; or will do: ``sign a ...``.

    Args:
        digest: see `signed_digest`.
        subject: whom the certificate of the key is about, where that is known.
    """
    operation, what = action.meaning
    words = _VERBS[operation] if done else operation.value
    if digest and (name := digest.partition(":")[0]):
        words += f" a {name} digest"
    if operation in _WITH_KEY:
        words += f" with {_application(action)}{'some key' if what is None else what}"
        words += f", {subject}" if subject else ""
    elif what is not None:
        words += f" {'PIN ' if operation in _PINS else ''}{_application(action)}{what}"
    return words


def signed_digest(action: Action) -> str:
    """The digest that a signing command carries, as ``SHA-256:0123...``; empty where it does not show."""
    command = action.command
    if command is None or not action.complete or action.operation not in (Operation.SIGN, Operation.AUTHENTICATE):
        return ""
    data = _challenge(command.data) if command.ins == _GENERAL_AUTHENTICATE else command.data
    if len(data) in _DIGEST_SIZES:
        return f":{data.hex()}"
    for name, prefix in _DIGEST_INFO.items():
        at = data.rfind(prefix)
        if at >= 0 and len(data) - at - len(prefix) == prefix[-1]:
            return f"{name}:{data[at + len(prefix) :].hex()}"
    return ""


def _challenge(data: bytes) -> bytes:
    for template in objects(data, partial=True) or ():
        if template.tag == _DYNAMIC_AUTHENTICATION:
            for each in objects(template.value, partial=True) or ():
                if each.tag == _CHALLENGE:
                    return each.value
    return b""


def _application(action: Action) -> str:
    (only,) = action.applications if len(action.applications) == 1 else (Application.UNKNOWN,)
    return "" if only is Application.UNKNOWN else f"{only.value} "
