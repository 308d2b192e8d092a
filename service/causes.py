"""What can be wrong that a person must mend: its stable word, who acts, and the sentence that says how. Pure; the table is data.

`errors.Attention.code` is such a word; it becomes `soc.coverage.cause`. docs/operations.md has the same table for people.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from service import errors, model

Who = Literal["operator", "customer", "Microsoft"]

SOURCE_GONE: Final = "source_gone"
"""The cause of a stream that is retired: no error of its own has it."""
SILENT: Final = "silent"
NOT_RETURNED: Final = "not_returned"
"""Causes of streams whose polls are well, but for what they bring: no error has them."""


@dataclass(frozen=True, slots=True)
class Cause:
    """`who` can act, `meaning` in a few words, `remedy` what to do: `{tenant}` in it is the tenant as a command takes it.

    `own` takes its place where the tenant has an app and credential of its own (`{app}` is that app, `{own}` what
    `tenants set-credential` needs to change it), `user` where it is read on behalf of a user who signed in.
    """

    who: Who
    meaning: str
    remedy: str
    own: str | None = None
    user: str | None = None


_INVITE: Final = "Send: alertwell tenants invite {tenant}"
_GRANT: Final = "An administrator must consent to the app {app} there, then: alertwell tenants check {tenant}"
_LOGIN: Final = (
    "An administrator must consent to the app's delegated permissions, then the user signs in: "
    "alertwell login {tenant}"
)
_SET: Final = "alertwell tenants set-credential {own}"
_ANOTHER: Final = f"Check the tenant's own app, or set another credential: {_SET} --secret-file FILE"
_SETTINGS: Final = "Check CLIENT_ID and the credential in the settings, or those of the tenant"

CAUSES: Final[Mapping[str, Cause]] = {
    # the app's own credential: every tenant that uses it waits
    "secret_wrong": Cause(
        "operator",
        "the client secret is wrong",
        "Set the secret's value, not its id, in CLIENT_SECRET_FILE",
        own=f"Set the secret's value, not its id: {_SET} --secret-file FILE",
    ),
    "secret_expired": Cause(
        "operator",
        "the client secret has expired",
        "Make a new one in the app registration and put it into CLIENT_SECRET_FILE",
        own=f"Make a new one in that app's registration, then: {_SET} --secret-file FILE",
    ),
    "secret_missing": Cause("operator", "no credential was sent", _SETTINGS, own=_ANOTHER),
    "credential_refused": Cause("operator", "Entra refuses the app's credential", _SETTINGS, own=_ANOTHER),
    "credential_missing": Cause(
        "operator",
        "there is no app to sign in with",
        "Set CLIENT_ID and a credential, or give the tenant an app of its own",
    ),
    "certificate_refused": Cause(
        "operator",
        "the certificate is not one of the app's",
        "Upload the certificate to the app registration, or use the one that is there",
        own=f"Upload it to that app's registration, or use the one that is there: {_SET} --certificate-file FILE",
    ),
    "certificate_expired": Cause(
        "operator",
        "the app's certificate has expired",
        "Register a new one with the app and put it into CLIENT_CERTIFICATE_FILE",
        own=f"Register a new one with that app, then: {_SET} --certificate-file FILE",
    ),
    "managed_identity_unavailable": Cause(
        "operator",
        "the managed identity gives no token",
        "Assign the identity to this machine, or set another credential",
    ),
    "federated_record_missing": Cause(
        "operator",
        "no federated credential of the app fits the token",
        "Compare issuer, subject and audience with the app registration, letter by letter; a new record takes some minutes",
    ),
    "public_client_off": Cause(
        "operator",
        "the app does not allow users to sign in without a secret",
        "Switch on Allow public client flows in the app registration, under Authentication",
    ),
    "clock_skew": Cause(
        "operator",
        "the assertion is outside its time",
        "Set this machine's clock (NTP): alertwell doctor shows it",
    ),
    "app_disabled": Cause(
        "operator",
        "the app is disabled, at home or in that tenant",
        "Enable it again: in the app registration, or the customer under Enterprise applications",
    ),
    # the customer's side
    "app_not_in_tenant": Cause(
        "customer",
        "our app is not in the tenant",
        _INVITE,
        own="Check the tenant id, and that the app {app} is there: alertwell tenants show {tenant}",
        user=_LOGIN,
    ),
    "consent_missing": Cause(
        "customer", "consent was not given, or was taken back", _INVITE, own=_GRANT, user=_LOGIN
    ),
    "consent_declined": Cause(
        "customer", "an administrator declined the consent", _INVITE, own=_GRANT, user=_LOGIN
    ),
    "role_missing": Cause(
        "customer",
        "consent does not hold the role that the source needs",
        "An administrator must consent again; the same link works: alertwell tenants invite {tenant}",
        own=_GRANT,
    ),
    "scope_missing": Cause(
        "customer",
        "the sign-in does not hold the permission that the source needs",
        "An administrator must consent to it, then the user signs in again: alertwell login {tenant}",
    ),
    "unauthorized": Cause(
        "customer",
        "the API refuses a fresh token",
        "Check that the customer allows the app for this API, and the stream's parameters: alertwell tenants show {tenant}",
    ),
    "forbidden": Cause(
        "customer",
        "the API forbids the access, without saying why",
        "Ask the customer about consent and licence; then: alertwell doctor --tenant {tenant}",
    ),
    "no_licence": Cause(
        "customer",
        "the tenant has no licence for Defender, or never set it up",
        "The customer has to buy or set up Defender; else take the source away: alertwell tenants pause {tenant}",
    ),
    "resource_missing": Cause(
        "customer",
        "the API is not in the tenant, or is disabled there",
        "The customer has to set Defender up once (open security.microsoft.com); check the tenant's cloud",
    ),
    "tenant_not_found": Cause(
        "customer",
        "there is no such tenant in this cloud",
        "Compare the tenant id and the cloud with the customer; a tenant that was deleted: alertwell tenants remove {tenant}",
    ),
    "policy_blocks": Cause(
        "customer",
        "a Conditional Access or security policy blocks the app",
        "The customer has to except the app from the policy (Entra's sign-in log names it)",
    ),
    "user_refused": Cause(
        "customer",
        "the user account is missing, disabled or refused",
        "Sign in with another: alertwell login {tenant}",
    ),
    "sign_in_again": Cause(
        "customer", "the sign-in has ended", "The user has to sign in again: alertwell login {tenant}"
    ),
    # how it is set up
    "wrong_cloud": Cause(
        "operator",
        "the tenant or the app belongs to another Microsoft cloud",
        "Set the tenant's cloud, with an app that is registered there",
    ),
    "wrong_tenant": Cause(
        "operator",
        "Entra gave a token of another tenant",
        "Check the tenant id and AUTHORITY_URL; nothing was read",
    ),
    "wrong_audience": Cause(
        "operator",
        "Entra gave a token for another API",
        "Check SIEM_RESOURCE and the API addresses in the settings",
    ),
    "permission_not_registered": Cause(
        "operator",
        "the app registration lists no permission for the API",
        "Add the permission to the app registration, then: alertwell tenants invite {tenant}",
        own="Add the permission to the registration of {app} and consent to it, then: alertwell tenants check {tenant}",
        user="Add the delegated permission to the app registration, then: alertwell login {tenant}",
    ),
    "scope_refused": Cause(
        "operator", "Entra refuses the scope", "Check SIEM_RESOURCE and the tenant's cloud"
    ),
    "request_refused": Cause(
        "operator",
        "Entra refuses the form of the request",
        "Check AUTHORITY_URL and the settings; else report it as a bug",
    ),
    "setup_wrong": Cause(
        "operator", "a setting or a stored credential cannot be used", "Mend what the sentence names"
    ),
    "redirected": Cause(
        "operator",
        "the API sends us to another host for good",
        "Check the tenant's cloud and region: alertwell tenants show {tenant}",
    ),
    "entra_refuses": Cause(
        "operator",
        "Entra gives a code that is not known here",
        "Look the code up in Microsoft's list of AADSTS codes",
    ),
    "entra_fault": Cause(
        "Microsoft", "Entra has a lasting fault for the tenant", "Open a support ticket with Microsoft"
    ),
    # the API answers, and what it answers is not what it should be
    SILENT: Cause(
        "customer",
        "no records come where they used to, beyond chance",
        "Compare with the customer's portal: where that is empty too, ask about sensors, the licence, and another product in "
        "Defender's place; where it is not, try the API: alertwell doctor --tenant {tenant}",
    ),
    NOT_RETURNED: Cause(
        "Microsoft",
        "the API does not return records that it returned before",
        "Compare with the customer's portal: where the records are there, open a support ticket with Microsoft; where they are "
        "not, somebody has deleted them, or the app sees fewer devices than before. It is asked again every hour, for seven days",
    ),
    SOURCE_GONE: Cause(
        "operator",
        "the source does not exist any more",
        "Enrol another source (tenants add … --source graph_alerts), or set FALLBACK_SOURCE",
    ),
}


def of(failure: errors.PollFailure, state: model.StreamState) -> str | None:
    """The word for `soc.coverage.cause`: None unless a person must act, or the source is gone for good."""
    if state == "retired":
        return SOURCE_GONE
    return failure.code if isinstance(failure, errors.Attention) else None


def said(message: str, cause: str | None, access: model.Access) -> str:
    """What happened, and what to do about it: the sentence that stands beside the tenant's name."""
    known = CAUSES.get(cause or "")
    if known is None:
        return message
    return f"{message}. {remedy(known, access)}"


def remedy(cause: Cause, access: model.Access) -> str:
    """What to do about the credential that is used here, with commands that can be pasted into a shell."""
    tenant, own = access.tenant, access.credential
    # a name that looks like an option would be taken for one
    name = shlex.quote(str(tenant.tenant_id) if tenant.name.startswith("-") else tenant.name)
    if own is None:
        return cause.remedy.replace("{tenant}", name)
    app = shlex.quote(own.app_id)
    row = f"{{tenant}} --client-id {app}" + (f" --source {shlex.quote(own.source)}" if own.source else "")
    text = (cause.user if own.kind == "delegated" else cause.own) or cause.remedy
    # the name last: it may look like one of these
    return text.replace("{app}", app).replace("{own}", row).replace("{tenant}", name)
