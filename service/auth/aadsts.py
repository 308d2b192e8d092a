"""What an error answer of Entra means for a daemon. Pure; the table is data. What a person does about it stands in `causes`.

Microsoft asks apps to branch on `error`, which is stable; the AADSTS numbers may change, so they only refine: an unknown
number falls back to its `error`, and an unknown `error` is shown to the operator and tried again slowly.
Source: Entra's "Microsoft Entra authentication and authorization error codes", and what is seen in the field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Class = Literal["R", "O", "C", "B"]
"""Who can help: R retry by itself, O our operator, C the customer, B a wrong configuration or a bug of ours."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`code` is the stable word that states and alarms use (`causes` says who acts on it, and how); `what` happened, as a person
    reads it, and `why` it may have, where that is not said yet.
    """

    who: Class
    code: str
    what: str
    why: str = ""

    def sentence(self, label: str) -> str:
        """`label` is what can be looked up, such as AADSTS700016."""
        return f"{self.what} ({label}): {self.why}" if self.why else f"{self.what} ({label})"


def _same(verdict: Verdict, *numbers: int) -> dict[int, Verdict]:
    return dict.fromkeys(numbers, verdict)


_SIGN_IN_AGAIN: Final = Verdict(
    "C", "sign_in_again", "the sign-in has ended", "the user has to sign in again"
)
_USER: Final = Verdict("C", "user_refused", "Entra does not know the user account, or refuses its password")
_POLICY: Final = Verdict(
    "C", "policy_blocks", "a Conditional Access or security policy of the customer blocks our app"
)


def _ended(why: str) -> Verdict:
    return Verdict("C", "sign_in_again", "the sign-in has ended", why)


_PASSING: Final = Verdict("R", "entra_unavailable", "Entra has a passing fault")
_CONSENT: Final = Verdict(
    "C", "consent_missing", "the customer has not consented to our app, or took the consent back"
)
_APP_MISSING: Final = Verdict(
    "C",
    "app_not_in_tenant",
    "our app is not in this tenant",
    "not consented, removed, or wrong tenant id",
)
_RESOURCE: Final = Verdict(
    "C",
    "resource_missing",
    "the API is not in this tenant, or is disabled there",
    "Defender was never set up in it, or resource or cloud are wrong",
)
_OTHER_CLOUD: Final = Verdict(
    "O",
    "wrong_cloud",
    "the tenant or the app belongs to another Microsoft cloud",
    "an app has to be registered in the tenant's cloud",
)
_PERMISSIONS: Final = Verdict(
    "O", "permission_not_registered", "the app registration lists no permission for this API"
)
_BAD_SCOPE: Final = Verdict("B", "scope_refused", "Entra refuses the scope that was asked for")
_ASSERTION: Final = Verdict(
    "O", "certificate_refused", "the certificate or its key is not one that is registered with the app"
)
_FEDERATED: Final = Verdict(
    "O",
    "federated_record_missing",
    "no federated credential of the app matches issuer, subject and audience of the token",
    "they are case-sensitive",
)
_OUR_FAULT: Final = Verdict("B", "request_refused", "Entra refuses the form of the request")
_SUPPORT: Final = Verdict("O", "entra_fault", "Entra has a lasting fault for this tenant")

BY_NUMBER: Final[Mapping[int, Verdict]] = {
    7000215: Verdict(
        "O",
        "secret_wrong",
        "the client secret is wrong",
        "often the secret's id was pasted in place of its value",
    ),
    7000222: Verdict("O", "secret_expired", "the client secret has expired"),
    7000218: Verdict("B", "secret_missing", "no secret and no assertion was sent"),
    700024: Verdict(
        "O",
        "clock_skew",
        "the assertion is outside its time window",
        "this machine's clock may be off, or a federated token is no longer rotated",
    ),
    700229: Verdict(
        "O", "federated_record_missing", "the token offered as federated credential is not one of an app"
    ),
    50196: Verdict("R", "asked_too_often", "Entra saw the same request too often and refuses it for a while"),
    90055: Verdict("R", "entra_throttles", "Entra throttles this tenant"),
    90002: Verdict(
        "C",
        "tenant_not_found",
        "there is no such tenant in this cloud",
        "deleted, a wrong tenant id, or another cloud",
    ),
    900023: Verdict("B", "tenant_not_found", "the tenant id is neither a GUID nor a domain"),
    65004: Verdict("C", "consent_declined", "an administrator of the customer declined the consent"),
    70016: Verdict("R", "sign_in_pending", "the sign-in is not finished yet"),
    650052: Verdict(
        "C", "no_licence", "the tenant has no subscription for this API, or it is not enabled there"
    ),
    **_same(_OUR_FAULT, 900144, 901002, 50049, 50194, 9001023, 100007, 70002, 700025),
    **_same(
        Verdict("O", "app_disabled", "the app, or its service principal in this tenant, is disabled"),
        7000112,
        70001,
    ),
    **_same(_APP_MISSING, 700016, 700011),
    **_same(_ASSERTION, 700027, 50012, 700030, 50013, 500133, 50027, 700021, 700023),
    **_same(_FEDERATED, 70021, 70025, 700211, 700212, 700213, 7002138),
    **_same(_OTHER_CLOUD, 90038, 900382, 900432),
    **_same(_CONSENT, 65001, 90094, 90095),
    **_same(_RESOURCE, 500011, 50001, 500014),
    **_same(_PERMISSIONS, 650054, 650056, 650057, 65005),
    **_same(_BAD_SCOPE, 70011, 1002012, 700022),
    **_same(_POLICY, 53000, 53001, 53002, 53003, 530032, 530035),
    **_same(_USER, 50034, 50126),
    50055: Verdict("C", "user_refused", "the user's password has expired"),
    50057: Verdict("C", "user_refused", "the user account is disabled"),
    50173: _ended("it was revoked, or the user's password was changed"),
    700082: _ended("it was not used for 90 days"),
    70043: _ended("the customer's policy limits how long a sign-in lasts"),
    70019: _ended("nobody entered the code in time"),
    **_same(
        _ended("the customer's policy asks for a second factor, which only the user can give"),
        50076,
        50078,
        50079,
        50158,
    ),
    **_same(_SIGN_IN_AGAIN, 70000, 70008),
    **_same(_PASSING, 90033, 90006, 90012, 90024, 90090, 50033, 50087),
    **_same(_SUPPORT, 50000, 90036, 90092),
}

BY_ERROR: Final[Mapping[str, Verdict]] = {
    "invalid_client": Verdict("O", "credential_refused", "Entra refuses the app's credential"),
    "unauthorized_client": _APP_MISSING,
    "invalid_resource": _RESOURCE,
    "invalid_scope": _BAD_SCOPE,
    "invalid_tenant": BY_NUMBER[90002],
    "access_denied": _CONSENT,
    "consent_required": _CONSENT,
    "interaction_required": _SIGN_IN_AGAIN,
    "expired_token": _SIGN_IN_AGAIN,
    "invalid_grant": _SIGN_IN_AGAIN,
    "invalid_request": _OUR_FAULT,
    "unsupported_grant_type": _OUR_FAULT,
    "temporarily_unavailable": _PASSING,
    "server_error": _PASSING,
    "slow_down": _PASSING,
    "authorization_pending": BY_NUMBER[70016],
}

UNKNOWN: Final = Verdict("O", "entra_refuses", "Entra refuses the token with a code that is not known here")

_PASSING_ERRORS: Final = frozenset({"temporarily_unavailable", "server_error", "slow_down"})
_FORM_ERRORS: Final = frozenset({"invalid_resource", "invalid_scope"})
_FORM_NUMBERS: Final = frozenset({500011, 50001, 500014, 70011, 1002012, 700022, 901002})
_NUMBER: Final = re.compile(r"AADSTS(\d{4,8})\b")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer of Entra, reduced to what may be shown: its `error` word and its numbers, never its text.

    The text (`error_description`) names app ids and tenants and is free; nothing of it is kept.
    """

    error: str
    numbers: tuple[int, ...]

    @property
    def verdict(self) -> Verdict:
        if self.error in _PASSING_ERRORS:
            return next(
                (BY_NUMBER[n] for n in self.numbers if n in BY_NUMBER and BY_NUMBER[n].who == "R"), _PASSING
            )
        for number in self.numbers:
            if number in BY_NUMBER:
                return BY_NUMBER[number]
        return BY_ERROR.get(self.error, UNKNOWN)

    @property
    def label(self) -> str:
        """What a person can look up, such as `AADSTS7000222`."""
        return f"AADSTS{self.numbers[0]}" if self.numbers else self.error

    @property
    def of_credential(self) -> bool:
        """The app's own credential is refused, so every tenant that uses it is concerned.

        Some refusals that only the customer can lift (650052) say `invalid_client` too: they stay that tenant's own.
        """
        return self.error == "invalid_client" and self.verdict.who != "C"

    @property
    def of_form(self) -> bool:
        """The resource is refused in the form it was asked for; the other form (v1 `resource=`, v2 `scope=`) may do."""
        return self.error in _FORM_ERRORS or not _FORM_NUMBERS.isdisjoint(self.numbers)


def refusal(body: Mapping[str, Any]) -> Refusal | None:
    """Read an error answer of the token endpoint or the metadata; None where it is none. Takes any hostile content."""
    error = body.get("error")
    if not isinstance(error, str):
        return None
    word = error if re.fullmatch(r"[a-z_]{1,40}", error) else "unknown_error"
    listed = body.get("error_codes")
    numbers = [
        code
        for code in (listed if isinstance(listed, list) else [])[:8]
        if type(code) is int and 0 < code < 10**8
    ]
    text = body.get("error_description")
    if not numbers and isinstance(text, str):
        numbers = [int(found) for found in _NUMBER.findall(text[:4096])[:1]]
    return Refusal(word, tuple(numbers))
