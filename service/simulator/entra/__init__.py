"""Entra ID: its token service, sign-in pages and consent pages, as far as a collector and its operators see
them.

    endpoints   the routes and what is refused before a grant is looked at
    proofs      how an app proves itself: secret, certificate, federated credential
    grants      the token endpoint's four grants
    sign_ins    who signed in, and what is outstanding: device codes, authorization codes, refresh tokens
    browser     what a browser opens: authorize and admin consent
    scopes      which permissions of which API a request asks for
    aadsts      the errors
"""
