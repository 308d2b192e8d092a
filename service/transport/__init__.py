"""The only HTTP towards Microsoft's APIs: token, pace, retry, limits of size and time, translation of errors."""
