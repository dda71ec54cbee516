"""Tests of identity and TLS."""
