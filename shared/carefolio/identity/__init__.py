"""Accounts, credentials, OAuth2 clients, tokens, sign-in with others."""
