"""Credentials and tokens: the only place that sees a plaintext secret, and the only one that speaks to Entra."""
